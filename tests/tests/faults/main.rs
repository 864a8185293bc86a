//! What goes wrong, and what must not go wrong with it: agents that are killed, restarted and given other tables, backends that
//! disappear, tables cut at every operation, a thousand changes, nonsense.

mod churn;
mod cuts;
mod endings;
mod nonsense;
mod resize;
mod restarts;
mod tables;
mod town;
