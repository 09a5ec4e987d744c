//! Direct I/O with the standard library: an aligned buffer is all that it takes.

use std::fs::OpenOptions;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;

use esker_buf::{AlignedBuf, Alignment, HugePages};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::temp_dir().join(format!("esker-direct-io-{}", std::process::id()));
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create_new(true)
        .custom_flags(libc::O_DIRECT);
    let mut file = match options.open(&path) {
        Ok(file) => file,
        Err(error) => {
            println!("no direct I/O in {}: {error}", path.display());
            return Ok(());
        }
    };

    let mut buf = AlignedBuf::zeroed_on(2 << 20, Alignment::BLOCK, HugePages::Try)?;
    for (byte, value) in buf.iter_mut().zip((0..=250).cycle()) {
        *byte = value;
    }
    file.write_all(&buf)?;
    file.rewind()?;
    let mut back = AlignedBuf::zeroed_on(2 << 20, Alignment::BLOCK, HugePages::Try)?;
    file.read_exact(&mut back)?;
    std::fs::remove_file(&path)?;

    assert!(back[..] == buf[..], "what was written comes back");
    let pages = if buf.is_huge() { "huge" } else { "ordinary" };
    println!(
        "wrote and read {} bytes past the page cache, from {pages} pages",
        buf.len()
    );
    Ok(())
}
