//! The verbs of `rkvm-oci`, one a file, with runc's flags.
