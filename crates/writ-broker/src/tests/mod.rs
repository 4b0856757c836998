//! The broker on a real store, a real log and real sockets; only the data plane and the clock are ours.

mod brokerage;
mod control;
mod doors;
mod harness;
mod lanes;
mod leases;
mod originals;
mod postgres;
mod reconcile;
mod recovery;
mod reveal;
mod rotate;
mod run;
mod scale;
mod seen;
mod shared;
mod trust;
mod upstream;
