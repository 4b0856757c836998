//! The data plane from outside: a real proxy between a client and a service, with a broker that does as the test says.

mod flow;
mod lives;
mod outcomes;
mod streams;
mod support;
mod threats;
