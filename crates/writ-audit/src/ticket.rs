//! Waiting for the disk, without a runtime.
//!
//! A [`Ticket`] is a plain `Future` that the log thread completes: any executor can await it, and a thread without
//! one calls `wait`. All tickets of a batch share one `fdatasync`.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker},
    thread::Thread,
};

use crate::LogFault;

/// Resolves when everything that the stream accepted before is on the disk, or never will be.
#[derive(Debug)]
#[must_use = "nothing waits for the disk unless the ticket is awaited"]
pub struct Ticket(Arc<Waiter>);

impl Ticket {
    pub(crate) fn new() -> (Self, Arc<Waiter>) {
        let waiter = Arc::new(Waiter::default());
        (Self(Arc::clone(&waiter)), waiter)
    }

    /// Blocks this thread until the ticket resolves.
    ///
    /// # Errors
    /// The fault that kept the records from the disk.
    pub fn wait(self) -> Result<(), LogFault> {
        wait(self)
    }
}

impl Future for Ticket {
    type Output = Result<(), LogFault>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.lock();
        match state.done.clone() {
            Some(done) => Poll::Ready(done),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// The log thread's end of a ticket.
#[derive(Debug, Default)]
pub(crate) struct Waiter(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    done: Option<Result<(), LogFault>>,
    waker: Option<Waker>,
}

impl Waiter {
    pub(crate) fn complete(&self, done: Result<(), LogFault>) {
        let mut state = self.lock();
        state.done.get_or_insert(done);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Blocks this thread on a future of this crate.
pub(crate) fn wait<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
