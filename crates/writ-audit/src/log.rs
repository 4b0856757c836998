//! The log thread: takes batches from the queue, appends them, tells who waits.
//!
//! After a fault it holds no file and waits to be told to reopen; the queue refuses meanwhile.

use std::sync::Arc;

use crate::{
    HeadSink, LogFault, Moment, SegmentSource, StreamConfig,
    chain::{Chain, Opening},
    queue::{Batch, Queue, Wake},
    record::Cause,
};

/// Everything that the thread owns.
pub(crate) struct Log {
    config: StreamConfig,
    source: Box<dyn SegmentSource>,
    chain: Option<Chain>,
    queue: Arc<Queue>,
}

impl Log {
    /// Reports the opened chain's head, so that no stream exists without a checkpoint.
    pub(crate) fn new(
        config: StreamConfig,
        source: Box<dyn SegmentSource>,
        chain: Chain,
        queue: Arc<Queue>,
    ) -> Result<Self, LogFault> {
        report(config.heads.as_deref(), &chain, Moment::Start, (config.clock)())?;
        Ok(Self { config, source, chain: Some(chain), queue })
    }

    pub(crate) fn run(mut self) {
        let _closing = Closing(Arc::clone(&self.queue));
        let mut batch = Batch::default();
        loop {
            batch.clear();
            let wake = self.queue.next(&mut batch, self.config.sync_delay);
            let done = match wake {
                Wake::Batch => self.write(&mut batch),
                Wake::Rest => self.rest(),
                Wake::Reopen => self.reopen(),
                Wake::Close => self.write(&mut batch).and_then(|()| self.end()),
            };
            if let Err(fault) = &done {
                self.chain = None;
                if self.queue.fault().is_none() {
                    self.queue.fail(fault.clone());
                }
            }
            for waiter in batch.waiters.drain(..) {
                waiter.complete(done.clone());
            }
            if wake == Wake::Close {
                return;
            }
        }
    }

    fn write(&mut self, batch: &mut Batch) -> Result<(), LogFault> {
        let Some(chain) = &mut self.chain else {
            return self.queue.fault().map_or(Ok(()), Err);
        };
        if batch.count == 0 {
            return chain.check();
        }
        let now = (self.config.clock)();
        let before = chain.segment();
        let head = chain.append(self.source.as_mut(), &mut batch.buffer, batch.count, now)?;
        let moment = if head.segment == before { Moment::Progress } else { Moment::Rotation };
        report(self.config.heads.as_deref(), chain, moment, now)
    }

    fn rest(&mut self) -> Result<(), LogFault> {
        let Some(chain) = &self.chain else { return Ok(()) };
        chain.check()?;
        report(self.config.heads.as_deref(), chain, Moment::Progress, (self.config.clock)())
    }

    fn reopen(&mut self) -> Result<(), LogFault> {
        let now = (self.config.clock)();
        let opening = Opening { segment_bytes: self.config.segment_bytes, at: now, gap: Cause::Failure };
        let chain = Chain::open(&self.config.name, self.source.as_mut(), opening)?;
        report(self.config.heads.as_deref(), &chain, Moment::Start, now)?;
        self.queue.resume(chain.next());
        self.chain = Some(chain);
        Ok(())
    }

    fn end(&mut self) -> Result<(), LogFault> {
        let Some(chain) = &mut self.chain else { return Ok(()) };
        let now = (self.config.clock)();
        chain.end(self.source.as_mut(), now)?;
        report(self.config.heads.as_deref(), chain, Moment::Close, now)
    }
}

fn report(heads: Option<&dyn HeadSink>, chain: &Chain, moment: Moment, now: u64) -> Result<(), LogFault> {
    heads.map_or(Ok(()), |heads| heads.durable(&chain.head(), moment, now))
}

/// However the thread ends, the queue takes nothing more.
struct Closing(Arc<Queue>);

impl Drop for Closing {
    fn drop(&mut self) {
        if self.0.fault().is_none() {
            self.0.fail(LogFault::Closed { stream: self.0.stream.clone() });
        }
    }
}
