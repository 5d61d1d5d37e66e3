//! [resources/run]: limits of commands.

use crate::tests;

tests![];
