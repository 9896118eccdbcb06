//! The web page over the API.
