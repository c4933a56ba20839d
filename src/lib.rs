//! The two command lines, `rkvm` (the engine, Docker's words) and `rkvm-oci` (the OCI runtime, runc's words).
