//! Numbers from every proxy, merged into series and golden signals.
