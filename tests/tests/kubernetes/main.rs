//! Stories of the agent against a real API server and real controllers.
//!
//! Each story has a world with a node, a client and servers, an API namespace, a Node in the API, and a way of its own to
//! the API server, which it can spoil without harm to the others. Stories that stop the API server itself run alone.

mod events;
mod follow;
mod install;
mod migration;
mod outages;
mod restarts;
mod rights;
mod selection;
mod shop;
