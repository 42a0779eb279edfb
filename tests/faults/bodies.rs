//! Bodies that break off, lie, never end, come slowly or in parts, and what becomes of those who wait for them.

mod ahead;
mod broken;
mod cascade;
mod crowds;
mod drops;
mod full;
mod parts;
mod restart;
