//! Batches: several records by one reservation.

use crate::{Reservation, Reserve, ReserveError, Ring, TryReserve};

impl Ring {
    /// Reserves room for several records, one after the other, with one reservation: one atomic
    /// read-modify-write to reserve and one to commit, however many they are.
    ///
    /// The reservation spans them all; [`Reservation::records`] takes it apart. They go into one
    /// buffer, at final addresses, and are committed together; dropped or cancelled, they become
    /// one void record. Never blocks, allocates or spins.
    ///
    /// # Errors
    ///
    /// [`ReserveError`] if a record is below the smallest reservation or all of them together are
    /// more than a buffer holds: nothing has happened then.
    ///
    /// # Examples
    ///
    /// ```
    /// use esker_ring::{Ring, TryReserve};
    ///
    /// let ring = Ring::builder().build()?;
    /// let records = [&b"the first"[..], b"the second one"];
    /// let lens = records.map(<[u8]>::len);
    /// let TryReserve::Reserved(mut batch) = ring.try_reserve_batch(&lens)? else {
    ///     panic!("the first buffer is open and empty");
    /// };
    /// let mut addresses = Vec::new();
    /// for ((address, room), record) in batch.records(&lens).zip(records) {
    ///     room.copy_from_slice(record);
    ///     addresses.push(address);
    /// }
    /// assert!(batch.commit().is_none());
    /// assert_eq!(addresses[1] - addresses[0], 9);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline(always)]
    pub fn try_reserve_batch(&self, lens: &[usize]) -> Result<TryReserve<'_>, ReserveError> {
        self.try_reserve(self.batch_len(lens)?)
    }

    /// Reserves like [`try_reserve_batch`](Self::try_reserve_batch), and parks the thread while the
    /// ring is full, as [`reserve`](Self::reserve) does.
    ///
    /// # Errors
    ///
    /// As [`try_reserve_batch`](Self::try_reserve_batch).
    ///
    /// # Examples
    ///
    /// ```
    /// use esker_ring::{Reserve, Ring};
    ///
    /// let ring = Ring::builder().build()?;
    /// let Reserve::Reserved(mut batch) = ring.reserve_batch(&[8; 3])? else {
    ///     panic!("the first buffer is open and empty");
    /// };
    /// batch.fill(1);
    /// assert_eq!(batch.len(), 24);
    /// assert!(batch.commit().is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline(always)]
    pub fn reserve_batch(&self, lens: &[usize]) -> Result<Reserve<'_>, ReserveError> {
        self.reserve(self.batch_len(lens)?)
    }

    /// The length of all records; that it fits a buffer is for the reservation to find out.
    #[inline]
    fn batch_len(&self, lens: &[usize]) -> Result<usize, ReserveError> {
        let min = self.shared().shape.min_reservation as usize;
        let mut sum = 0usize;
        for &len in lens {
            if len < min {
                return Err(ReserveError::TooSmall { len, min });
            }
            sum = sum.saturating_add(len);
        }
        Ok(sum)
    }
}

impl Reservation<'_> {
    /// Takes the reservation apart into records of these lengths, one after the other: the address
    /// of each and its bytes. It ends where the reservation does not hold the next one.
    ///
    /// # Examples
    ///
    /// ```
    /// # use esker_ring::{Reserve, Ring};
    /// # let ring = Ring::builder().build()?;
    /// let Reserve::Reserved(mut batch) = ring.reserve_batch(&[8, 16])? else {
    ///     panic!("the first buffer is open and empty");
    /// };
    /// let sizes: Vec<usize> = batch.records(&[8, 16]).map(|(_, room)| room.len()).collect();
    /// assert_eq!(sizes, [8, 16]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn records<'s>(
        &'s mut self,
        lens: &'s [usize],
    ) -> impl Iterator<Item = (u64, &'s mut [u8])> {
        let mut address = self.address();
        let mut rest: &mut [u8] = self;
        lens.iter().map_while(move |&len| {
            let (record, after) = std::mem::take(&mut rest).split_at_mut_checked(len)?;
            let at = address;
            rest = after;
            address += len as u64;
            Some((at, record))
        })
    }
}
