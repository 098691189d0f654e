//! The `create` words -> a [`crate::model::Spec`]; the command line; rendering of tables, JSON, diagrams.
//!
//! | file | subject |
//! | --- | --- |
//! | `lex` | the words, and the nearest one to what is none |
//! | `grammar`, `check`, `print` | words to a spec, what is wrong beyond the words, a spec to words |
//! | `error` | a wrong word and the caret under it |
//! | `args`, `help`, `run` | options, texts, what each command does and its exit code |
//! | `plan`, `render`, `human` | the tree of `--dry-run`, tables and sheets, figures |
//! | `fuzz` | what must hold for any words |

mod args;
mod check;
mod error;
pub mod fuzz;
mod grammar;
mod help;
mod human;
mod lex;
mod plan;
mod print;
mod render;
mod run;

pub use error::{WordError, join};
pub use grammar::{MAX_SEGMENTS, parse, set_options};
pub use lex::Word;
pub use plan::plan;
pub use print::{print, print_options};
pub use run::run;
