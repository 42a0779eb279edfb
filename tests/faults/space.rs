//! Too little room on the disk.
