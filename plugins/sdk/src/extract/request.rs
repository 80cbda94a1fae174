//! The request itself as an argument.

use super::{FromRequest, Needs};
use crate::{Problem, Request};

impl FromRequest for Request {
    const NEEDS: Needs = Needs::NOTHING;

    fn from_request(request: &mut Request) -> Result<Self, Problem> {
        Ok(request.head())
    }
}
