//! Examples: one sentence of DESIGN.md, section 3, a test. What nobody thought of is the
//! explorer's.

mod kit;
mod late;
mod leaving;
mod orders;
mod remembered;
mod signals;
mod stop;
mod workers;
