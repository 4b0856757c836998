//! What remains of runs that have ended, on its way to the disk.
//!
//! The last who closes the mount of a kept layer waits until the kernel has written out the whole file system below it: milliseconds at
//! rest, and seconds behind a build. No person should wait for that at the end of each run, so the launcher passes it on to us. The
//! lock of the layer is among it: a confined session that opens meanwhile waits, or its run would find the layer taken.
//! Absent: any look at what is closed.

use std::{collections::BTreeSet, time::Duration};

use tokio::{sync::watch, task::spawn_blocking, time::timeout};

/// How long a session waits at the most for the runs before it. Then its run may have to do without the layer, and says so.
const SETTLED_MAX: Duration = Duration::from_secs(10);

/// What is being closed.
#[derive(Default)]
pub(crate) struct Settling {
    pending: watch::Sender<Pending>,
}

#[derive(Default)]
struct Pending {
    next: u64,
    numbers: BTreeSet<u64>,
}

impl Settling {
    /// Does `close`, which may take long, on a thread for such things.
    pub(crate) fn begin(&self, close: impl FnOnce() + Send + 'static) {
        let mut number = 0;
        self.pending.send_modify(|pending| {
            number = pending.next;
            pending.next = number.saturating_add(1);
            pending.numbers.insert(number);
        });
        let pending = self.pending.clone();
        spawn_blocking(move || {
            close();
            pending.send_modify(|pending| {
                pending.numbers.remove(&number);
            });
        });
    }

    /// Waits until everything is closed that was begun before.
    pub(crate) async fn settled(&self) {
        let mut pending = self.pending.subscribe();
        let upto = pending.borrow().next;
        let settled = pending.wait_for(|pending| pending.numbers.iter().all(|number| *number >= upto));
        let _ = timeout(SETTLED_MAX, settled).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn what_began_before_is_waited_for_and_nothing_else() {
        let settling = Settling::default();
        settling.settled().await;
        let ((first, blocks), (second, blocks_too)) = (mpsc::channel::<()>(), mpsc::channel::<()>());
        settling.begin(move || {
            let _ = blocks.recv();
        });
        {
            let mut settled = Box::pin(settling.settled());
            tokio::select! {
                biased;
                () = &mut settled => panic!("the first is open"),
                () = tokio::task::yield_now() => {}
            }
            settling.begin(move || {
                let _ = blocks_too.recv();
            });
            drop(first);
            settled.await;
        }
        drop(second);
        settling.settled().await;
    }
}
