//! The file: objects by key, and the revision counter.

use std::path::{Path, PathBuf};

use redb::{ReadableTable, TableDefinition};
use serde_json::Value;

use super::Key;

/// `<storage>\0<namespace>\0<name>` → the object's JSON.
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
/// `revision` → the newest revision.
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");

/// Bytes redb may cache; reads are served from our own caches, so this stays small.
const CACHE_BYTES: usize = 2 * 1024 * 1024;

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Another process has the file open.
    #[error("cluster database {} is in use by another process", .path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be opened, read or written.
    #[error("cluster database {} failed", .path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What redb says.
        #[source]
        source: Box<redb::Error>,
    },
    /// An object in the file does not parse.
    #[error("cluster database {} holds a damaged object at {key:?}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Key of the object.
        key: String,
    },
    /// The writer thread could not be started.
    #[error("cannot start the storage thread")]
    Thread(#[source] std::io::Error),
}

/// Everything in the file.
pub(super) struct Loaded {
    pub(super) revision: u64,
    pub(super) objects: Vec<(String, Key, Value)>,
}

/// One row of a batch; `None` removes.
pub(super) struct Row {
    pub(super) storage: &'static str,
    pub(super) key: Key,
    pub(super) bytes: Option<Vec<u8>>,
}

pub(super) struct Database {
    path: PathBuf,
    redb: redb::Database,
}

impl Database {
    pub(super) fn open(path: &Path) -> Result<Self, StorageError> {
        let failed = |source: redb::Error| StorageError::Database {
            path: path.to_owned(),
            source: Box::new(source),
        };
        let redb =
            redb::Builder::new().set_cache_size(CACHE_BYTES).create(path).map_err(|error| {
                match error {
                    redb::DatabaseError::DatabaseAlreadyOpen => {
                        StorageError::InUse { path: path.to_owned() }
                    }
                    other => failed(other.into()),
                }
            })?;
        Ok(Self { path: path.to_owned(), redb })
    }

    fn failed(&self, source: impl Into<redb::Error>) -> StorageError {
        StorageError::Database { path: self.path.clone(), source: Box::new(source.into()) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads everything; makes the tables on first use.
    pub(super) fn load(&self) -> Result<Loaded, StorageError> {
        let transaction = self.redb.begin_write().map_err(|error| self.failed(error))?;
        let loaded = {
            let counters = transaction.open_table(COUNTERS).map_err(|error| self.failed(error))?;
            let stored = counters.get("revision").map_err(|error| self.failed(error))?;
            // Above zero from the start: "0" and "" mean something else to clients.
            let revision = stored.map_or(1, |guard| guard.value());
            let objects = transaction.open_table(OBJECTS).map_err(|error| self.failed(error))?;
            let mut loaded = Loaded { revision, objects: Vec::new() };
            for row in objects.iter().map_err(|error| self.failed(error))? {
                let (key, bytes) = row.map_err(|error| self.failed(error))?;
                loaded.objects.push(self.parse_row(key.value(), bytes.value())?);
            }
            loaded
        };
        transaction.commit().map_err(|error| self.failed(error))?;
        Ok(loaded)
    }

    fn parse_row(&self, key: &str, bytes: &[u8]) -> Result<(String, Key, Value), StorageError> {
        let damaged =
            || StorageError::Damaged { path: self.path.clone(), key: key.replace('\0', "/") };
        let mut parts = key.split('\0');
        let (Some(storage), Some(namespace), Some(name)) =
            (parts.next(), parts.next(), parts.next())
        else {
            return Err(damaged());
        };
        let object = serde_json::from_slice(bytes).map_err(|_| damaged())?;
        Ok((storage.to_owned(), Key::new(namespace, name), object))
    }

    /// Writes a batch and the counter in one transaction; durable when it returns.
    pub(super) fn commit(&self, rows: &[Row], revision: u64) -> Result<(), StorageError> {
        let transaction = self.redb.begin_write().map_err(|error| self.failed(error))?;
        {
            let mut counters =
                transaction.open_table(COUNTERS).map_err(|error| self.failed(error))?;
            counters.insert("revision", revision).map_err(|error| self.failed(error))?;
            let mut objects =
                transaction.open_table(OBJECTS).map_err(|error| self.failed(error))?;
            for row in rows {
                let key = format!("{}\0{}\0{}", row.storage, row.key.namespace, row.key.name);
                match &row.bytes {
                    Some(bytes) => {
                        objects
                            .insert(key.as_str(), bytes.as_slice())
                            .map_err(|error| self.failed(error))?;
                    }
                    None => {
                        objects.remove(key.as_str()).map_err(|error| self.failed(error))?;
                    }
                }
            }
        }
        transaction.commit().map_err(|error| self.failed(error))
    }
}
