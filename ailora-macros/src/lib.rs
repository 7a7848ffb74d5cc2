//! Procedural macros of ailora.
