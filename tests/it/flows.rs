//! Whole-system flows: the programs as a user starts them, real services, devices that run the real agent code.

mod alerts;
mod calendar;
mod consent;
mod controllers;
mod crash;
mod embedded;
mod hostile;
mod logs;
mod real_stack;
