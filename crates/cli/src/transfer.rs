//! Bundles to disk, and what lies on disk against its manifest.
//!
//! A file appears under its name only when it is whole and its digest is the manifest's; a file that is already there is kept when it is good
//! and left alone when it is not, unless `--force` says otherwise. Object names come from devices and are made safe first.

mod fetch;
mod name;
mod verify;

pub(crate) use fetch::{TransferArgs, Wanted, collection_bundles, download};
pub(crate) use verify::verify_local;

/// Under this name the manifest lies beside the objects of its bundle.
pub(crate) const MANIFEST: &str = "manifest.json";
