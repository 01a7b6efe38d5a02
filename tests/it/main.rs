//! Whole-system tests: one program, one module per flow. Each test makes what it needs, on ports and in directories of its own.

mod arrows;
mod broker_acl;
mod deploy_examples;
mod documents;
mod example_device;
mod fleet;
mod flows;
mod mosquitto;
mod rabbit;
mod relay;
mod stack;
