//! What is left to be told.

use redb::{ReadableDatabase as _, ReadableTable as _};

use super::tables::{DEAD_LETTERS, EVENTS, RECEIVERS};
use super::{DeadLetter, Event, Metadata, MetadataError};

impl Metadata {
    /// Events after a sequence number, oldest first.
    pub(crate) fn events(
        &self,
        after: u64,
        events_max: usize,
    ) -> Result<Vec<(u64, Event)>, MetadataError> {
        let table = self.shared.database.begin_read()?.open_table(EVENTS)?;
        let mut events = Vec::new();
        for row in table.range(after.saturating_add(1)..)?.take(events_max) {
            let (key, value) = row?;
            events.push((key.value(), decode("events", key.value(), value.value())?));
        }
        Ok(events)
    }

    /// Who is told.
    pub(crate) fn receivers(&self) -> Result<Vec<String>, MetadataError> {
        let table = self.shared.database.begin_read()?.open_table(RECEIVERS)?;
        let mut names = Vec::new();
        for row in table.iter()? {
            names.push(row?.0.value().to_owned());
        }
        Ok(names)
    }

    /// The last event that a receiver has; none if it is not one.
    pub(crate) fn delivered(&self, receiver: &str) -> Result<Option<u64>, MetadataError> {
        let table = self.shared.database.begin_read()?.open_table(RECEIVERS)?;
        Ok(table.get(receiver)?.map(|row| row.value()))
    }

    /// Events that wait for a receiver, as far as one count says.
    pub(crate) fn waiting(&self, receiver: &str) -> Result<u64, MetadataError> {
        let Some(delivered) = self.delivered(receiver)? else { return Ok(0) };
        let table = self.shared.database.begin_read()?.open_table(EVENTS)?;
        let last = table.last()?.map_or(0, |(key, _)| key.value());
        Ok(last.saturating_sub(delivered))
    }

    /// Events that a receiver did not take, oldest first.
    pub(crate) fn dead_letters(
        &self,
        receiver: &str,
        letters_max: usize,
    ) -> Result<Vec<(u64, DeadLetter)>, MetadataError> {
        let table = self.shared.database.begin_read()?.open_table(DEAD_LETTERS)?;
        let mut letters = Vec::new();
        for row in table.range((receiver, 0)..=(receiver, u64::MAX))?.take(letters_max) {
            let (key, value) = row?;
            let sequence = key.value().1;
            letters.push((sequence, decode("dead_letters", sequence, value.value())?));
        }
        Ok(letters)
    }
}

fn decode<T: serde::de::DeserializeOwned>(
    table: &'static str,
    key: u64,
    row: &[u8],
) -> Result<T, MetadataError> {
    serde_json::from_slice(row).map_err(|_| MetadataError::Damaged { table, key: key.to_string() })
}
