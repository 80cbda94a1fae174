//! Plugins: what is deployed and what is refused, what they may do, and what they cannot do to others.

mod deploy;
mod lifecycle;
mod limits;
mod load;
mod refusals;
mod request;
mod restart;
