//! Tables in a transaction, with the way back: a rejected change leaves no trace.
//!
//! One transaction holds many changes, and the database can only give up the whole of it. So every
//! write through [`Rows`] remembers what was there before, until the next change begins.

use std::borrow::Borrow;
use std::ops::Deref;

use redb::{Key, ReadOnlyTable, ReadableTable as _, StorageError, Table, Value};

/// A table that is being written; reads go to the [`Table`] itself.
pub(crate) struct Rows<'t, K: Key + 'static, V: Value + 'static> {
    table: Table<'t, K, V>,
    /// Key and former value of every row written since the change began.
    undo: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// A value that was overwritten or removed.
#[derive(Debug)]
pub(crate) struct Former<V> {
    bytes: Vec<u8>,
    kind: std::marker::PhantomData<fn() -> V>,
}

impl<V: Value + 'static> Former<V> {
    /// The value.
    pub(crate) fn value(&self) -> V::SelfType<'_> {
        V::from_bytes(&self.bytes)
    }
}

impl<'t, K: Key + 'static, V: Value + 'static> Deref for Rows<'t, K, V> {
    type Target = Table<'t, K, V>;

    fn deref(&self) -> &Self::Target {
        &self.table
    }
}

impl<'t, K: Key + 'static, V: Value + 'static> Rows<'t, K, V> {
    pub(super) const fn new(table: Table<'t, K, V>) -> Self {
        Self { table, undo: Vec::new() }
    }

    /// Writes a row; returns what it held before.
    pub(crate) fn insert<'k, 'v>(
        &mut self,
        key: impl Borrow<K::SelfType<'k>>,
        value: impl Borrow<V::SelfType<'v>>,
    ) -> Result<Option<Former<V>>, StorageError> {
        let former = self.table.insert(key.borrow(), value.borrow())?.map(|row| bytes(&row));
        // What was there already is no change.
        if former.as_deref() != Some(V::as_bytes(value.borrow()).as_ref()) {
            self.undo.push((K::as_bytes(key.borrow()).as_ref().to_vec(), former.clone()));
        }
        Ok(former.map(Former::new))
    }

    /// Removes a row; returns what it held.
    pub(crate) fn remove<'k>(
        &mut self,
        key: impl Borrow<K::SelfType<'k>>,
    ) -> Result<Option<Former<V>>, StorageError> {
        let Some(former) = self.table.remove(key.borrow())?.map(|row| bytes(&row)) else {
            return Ok(None);
        };
        self.undo.push((K::as_bytes(key.borrow()).as_ref().to_vec(), Some(former.clone())));
        Ok(Some(Former::new(former)))
    }

    /// Writes a row of a snapshot, which nobody takes back.
    pub(super) fn load(&mut self, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        self.table.insert(K::from_bytes(key), V::from_bytes(value)).map(drop)
    }

    /// Whether anything differs since the last [`Rows::settle`].
    pub(super) const fn is_touched(&self) -> bool {
        !self.undo.is_empty()
    }

    /// Makes what was written so far final for [`Rows::undo`].
    pub(super) fn settle(&mut self) {
        self.undo.clear();
    }

    /// Takes back what was written since the last [`Rows::settle`].
    pub(super) fn undo(&mut self) -> Result<(), StorageError> {
        while let Some((key, former)) = self.undo.pop() {
            let key = K::from_bytes(&key);
            match former {
                Some(former) => drop(self.table.insert(&key, V::from_bytes(&former))?),
                None => drop(self.table.remove(&key)?),
            }
        }
        Ok(())
    }
}

impl<V> Former<V> {
    const fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, kind: std::marker::PhantomData }
    }
}

/// Shows every row of a table as bytes.
pub(super) fn each_row<K: Key + 'static, V: Value + 'static, E: From<StorageError>>(
    table: &ReadOnlyTable<K, V>,
    visit: &mut impl FnMut(&[u8], &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    for row in table.iter()? {
        let (key, value) = row?;
        visit(K::as_bytes(&key.value()).as_ref(), V::as_bytes(&value.value()).as_ref())?;
    }
    Ok(())
}

fn bytes<V: Value + 'static>(row: &redb::AccessGuard<'_, V>) -> Vec<u8> {
    V::as_bytes(&row.value()).as_ref().to_vec()
}

/// Declares the tables of the metadata: a definition for each, all of them opened in one
/// transaction as `Tables`, and what goes through all of them.
macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident $definition:ident: $key:ty => $value:ty;)+) => {
        $(
            $(#[$doc])*
            pub(crate) const $definition: redb::TableDefinition<'static, $key, $value> =
                redb::TableDefinition::new(stringify!($name));
        )+

        /// Every table, open in one transaction.
        pub(crate) struct Tables<'t> {
            $($(#[$doc])* pub(crate) $name: $crate::metadata::rows::Rows<'t, $key, $value>,)+
        }

        impl<'t> Tables<'t> {
            /// Opens the tables; a table that the database lacks is made.
            pub(crate) fn open(
                transaction: &'t redb::WriteTransaction,
            ) -> Result<Self, redb::TableError> {
                Ok(Self {
                    $($name: $crate::metadata::rows::Rows::new(
                        transaction.open_table($definition)?,
                    ),)+
                })
            }

            /// A new change begins: what was written stays.
            pub(in crate::metadata) fn settle(&mut self) {
                $(self.$name.settle();)+
            }

            /// Whether the current change changed anything.
            pub(in crate::metadata) fn is_touched(&self) -> bool {
                $(self.$name.is_touched())||+
            }

            /// Writes a row of a snapshot; says whether there is such a table.
            pub(in crate::metadata) fn load(
                &mut self,
                table: &str,
                key: &[u8],
                value: &[u8],
            ) -> Result<bool, redb::StorageError> {
                match table {
                    $(stringify!($name) => self.$name.load(key, value)?,)+
                    _ => return Ok(false),
                }
                Ok(true)
            }

            /// Takes back what the current change wrote.
            pub(in crate::metadata) fn undo(&mut self) -> Result<(), redb::StorageError> {
                $(self.$name.undo()?;)+
                Ok(())
            }
        }

        /// Shows every row of every table: table, key, value.
        pub(in crate::metadata) fn each_row<E: From<redb::TableError> + From<redb::StorageError>>(
            transaction: &redb::ReadTransaction,
            mut visit: impl FnMut(&str, &[u8], &[u8]) -> Result<(), E>,
        ) -> Result<(), E> {
            $(
                let table = transaction.open_table($definition)?;
                $crate::metadata::rows::each_row(&table, &mut |key, value| {
                    visit(stringify!($name), key, value)
                })?;
            )+
            Ok(())
        }

        /// Removes every row of every table.
        pub(in crate::metadata) fn clear(
            transaction: &redb::WriteTransaction,
        ) -> Result<(), redb::TableError> {
            $(transaction.delete_table($definition)?;)+
            Ok(())
        }

        /// Whether the database has every table.
        fn all_exist(transaction: &redb::ReadTransaction) -> Result<bool, redb::TableError> {
            $(
                match transaction.open_table($definition) {
                    Ok(_) => {}
                    Err(redb::TableError::TableDoesNotExist(_)) => return Ok(false),
                    Err(error) => return Err(error),
                }
            )+
            Ok(true)
        }
    };
}
pub(crate) use tables;
