//! The data plane from outside: a real proxy between a client and a service, with a broker that does as the test says.

#[cfg(test)]
mod captured;
#[cfg(test)]
mod flow;
#[cfg(test)]
mod lives;
#[cfg(test)]
mod outcomes;
#[cfg(test)]
mod relays;
#[cfg(test)]
mod resumed;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod support;
#[cfg(test)]
mod threats;
