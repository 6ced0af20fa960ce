//! A worker that drains loses no request: real workers in threads, over real channels, with real
//! clients. `fallback`: nobody takes the connections; `passing`: another worker does.

mod client;
mod fallback;
mod faults;
mod files;
mod life;
mod passing;
mod rounds;
mod turns;
mod worker;
