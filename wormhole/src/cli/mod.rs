//! The `create` words -> a [`crate::model::Spec`]; rendering of tables, JSON, diagrams.

mod check;
mod error;
pub mod fuzz;
mod grammar;
mod lex;
mod print;

pub use error::{WordError, join};
pub use grammar::{MAX_SEGMENTS, parse, set_options};
pub use lex::Word;
pub use print::{print, print_options};
