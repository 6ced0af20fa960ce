//! A worker that drains loses no request: real workers in threads, over real channels, with real
//! clients. `fallback`: nobody takes the connections; `passing`: another worker does; `switching`: the
//! ones that ask for another protocol; `ends`: answers that end a connection arrive; `http2`.

mod client;
mod ends;
mod fallback;
mod faults;
mod files;
mod http2;
mod life;
mod passing;
mod proxied;
mod rounds;
mod switching;
mod turns;
mod worker;
