//! Plugins: what may be deployed, what a running one may do, and what its neighbours notice (nothing).

mod capabilities;
mod deploy;
mod limits;
