//! Applications in other languages behind our workers: what is true of a release is true of them.
//! The application of these tests needs Python and nothing else.

#[path = "../kit/mod.rs"]
mod kit;

mod bad_input;
mod cold;
mod life;
mod proxied;
mod real;
mod scene;
mod supervised;
mod takeover;
