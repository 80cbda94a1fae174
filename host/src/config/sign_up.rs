//! The ways in which accounts come to be.

/// The people who get an account without an operator who creates it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SignUp {
    /// Everybody may sign up.
    #[default]
    Open,
    /// People who were invited.
    Invite,
    /// Nobody. Invitations are off too.
    Off,
}
