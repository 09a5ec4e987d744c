//! [`Handover`]: how any thread gives things to one that sleeps while there are none.
//!
//! These hold:
//!
//! - H1. What is put is taken once, by the one thread that takes, in the order in which it was put;
//!   or it is given back to the one who put it.
//! - H2. The taker sleeps only after it has found, behind the mutex, that there is nothing to take,
//!   and has said there that it sleeps. The first who puts something after that is told to wake it.
//! - H3. It ends when it was closed and there is nothing left to take; from then on everything is
//!   given back.

use std::collections::VecDeque;

use crate::sync::waiting::Mutex;

#[derive(Debug)]
pub(crate) struct Handover<T> {
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    things: VecDeque<T>,
    /// Whether the taker sleeps or is about to, and nobody has been told to wake it yet.
    asleep: bool,
    closed: bool,
    ended: bool,
}

/// What became of things that were put.
#[derive(Debug)]
#[must_use]
pub(crate) enum Put<T> {
    /// They will be taken.
    Done,
    /// They will be taken once somebody, which is whoever gets this, has woken the taker.
    Wake,
    /// Nobody takes any more: here they are.
    Ended(Vec<T>),
}

/// What the taker does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Next {
    /// Something has come meanwhile.
    Take,
    /// There is nothing: it may sleep, and will be woken.
    Sleep,
    /// There is nothing, and never will be.
    End,
}

impl<T> Default for State<T> {
    fn default() -> Self {
        Self {
            things: VecDeque::new(),
            asleep: false,
            closed: false,
            ended: false,
        }
    }
}

impl<T> Default for Handover<T> {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
        }
    }
}

impl<T> Handover<T> {
    pub(crate) fn put(&self, things: Vec<T>) -> Put<T> {
        let mut state = self.state.lock();
        if state.ended {
            return Put::Ended(things);
        }
        state.things.extend(things);
        Self::woken(&mut state)
    }

    /// Lets the taker end when it has taken everything.
    pub(crate) fn close(&self) -> Put<T> {
        let mut state = self.state.lock();
        state.closed = true;
        Self::woken(&mut state)
    }

    fn woken(state: &mut State<T>) -> Put<T> {
        if core::mem::take(&mut state.asleep) && !canary!("io-issuer-is-not-woken") {
            Put::Wake
        } else {
            Put::Done
        }
    }

    /// Takes what is there, in order. For the one taker.
    pub(crate) fn take(&self) -> VecDeque<T> {
        let mut state = self.state.lock();
        // It is awake: nobody need wake it.
        state.asleep = false;
        core::mem::take(&mut state.things)
    }

    /// What the taker, who has just found nothing to do, does next; `idle` unless there is
    /// something it waits for besides, so that it can't end.
    pub(crate) fn next(&self, idle: bool) -> Next {
        let mut state = self.state.lock();
        if !state.things.is_empty() && !canary!("io-issuer-sleeps-without-looking") {
            return Next::Take;
        }
        if state.closed && idle {
            state.ended = true;
            return Next::End;
        }
        state.asleep = true;
        Next::Sleep
    }
}
