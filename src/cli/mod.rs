//! The command line: what was typed ([`args`]), where the service lives ([`places`]), and the
//! client of the control socket ([`client`], [`status`], [`history`]).

pub mod args;
pub mod cert;
pub mod check;
pub mod client;
pub mod history;
pub mod places;
pub mod status;
pub(crate) mod text;
