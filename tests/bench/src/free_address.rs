//! An address for a server that does not choose one itself.

use std::net::{SocketAddr, TcpListener};

use crate::Failure;

/// Returns an address on this machine that no server has.
pub(crate) fn free_address() -> Result<SocketAddr, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
