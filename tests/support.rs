//! What tests stand on: throwaway servers and hosts. Knows nothing of any one test.

pub(crate) mod postgres;
