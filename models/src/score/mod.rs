//! Scores of texts and of answers, as the programs compute them whose numbers are published. Each is a
//! function of texts, whoever wrote them.

pub mod arithmetic;
mod porter;
pub mod rouge;
pub mod squad;
