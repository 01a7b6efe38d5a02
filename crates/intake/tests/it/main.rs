//! The intake against a real RabbitMQ, with a ledger in memory that fails when it is told to.

mod amqp;
mod desk;
mod ledger;
mod queue;
