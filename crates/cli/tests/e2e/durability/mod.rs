//! Nothing that the registry acknowledged is ever lost: power failures, kills, full disks; and
//! what a push costs. Registry.md 4.3 and row 13 of 6.4.

mod backup;
mod full_disk;
mod garbage;
mod http;
mod kills;
mod power;
mod server;
mod syncs;
mod transfer;
