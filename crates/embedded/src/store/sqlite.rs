//! The store in SQLite: write-ahead log, `synchronous=FULL`. One connection writes, one reads.
//!
//! The tables are `job` (what was submitted and how far it is), `log`, `config` (an object a row), `setting`. Their shape has
//! a version in `user_version`; older data is migrated when it is opened, newer data is refused.

use std::path::Path;
use std::sync::Arc;

use model::config::{Cluster, Config, Disk, Filter, Instance, Network, Node, NodeGroup};
use model::job::{Job, LogEntry, LogKind, Status};
use model::name::JobId;
use model::units::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::row::{JobRow, StateRow, Stored};
use super::{Backend, Reader, StoreError, Write};
use crate::config::Change;

/// What brings the tables from each version to the next; a new version is a new entry.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE job (
        id INTEGER PRIMARY KEY, status TEXT NOT NULL, archived INTEGER NOT NULL DEFAULT 0, received INTEGER NOT NULL,
        start INTEGER, end INTEGER, states TEXT NOT NULL, ops TEXT NOT NULL
    );
    CREATE INDEX job_listed ON job (archived, id, end);
    CREATE INDEX job_open ON job (id) WHERE end IS NULL;
    CREATE TABLE log (
        job INTEGER NOT NULL, serial INTEGER NOT NULL, op INTEGER NOT NULL, time INTEGER NOT NULL, kind TEXT NOT NULL,
        payload TEXT NOT NULL, PRIMARY KEY (job, serial)
    ) WITHOUT ROWID;
    CREATE TABLE config (
        kind TEXT NOT NULL, uuid TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (kind, uuid)
    ) WITHOUT ROWID;
    CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"];

/// The name of the setting that keeps ids of forgotten jobs from being used again.
const LAST_ID: &str = "last_job_id";

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::failed(error)
    }
}

impl From<serde_json::Error> for StoreError {
    fn from(error: serde_json::Error) -> Self {
        Self::failed(error)
    }
}

/// Opens a database file, making or migrating its tables: the connection that writes and the one that reads.
pub(crate) fn open(path: &Path) -> Result<(Sqlite, SqliteReader), StoreError> {
    let mut connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -2048)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    migrate(&mut connection, path)?;
    connection.set_prepared_statement_cache_capacity(64);
    let reader = Connection::open(path)?;
    reader.pragma_update(None, "query_only", true)?;
    reader.pragma_update(None, "cache_size", -1024)?;
    reader.busy_timeout(std::time::Duration::from_secs(5))?;
    reader.set_prepared_statement_cache_capacity(32);
    Ok((Sqlite(connection), SqliteReader(reader)))
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = version_number(MIGRATIONS.len());
    if found > known {
        return Err(StoreError::Newer { path: path.display().to_string(), found, known });
    }
    let done = usize::try_from(found).map_err(StoreError::failed)?;
    for (version, step) in MIGRATIONS.iter().enumerate().skip(done) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", version_number(version + 1))?;
        transaction.commit()?;
    }
    Ok(())
}

fn version_number(version: usize) -> i64 {
    i64::try_from(version).unwrap_or(i64::MAX)
}

fn micros(time: Option<Timestamp>) -> Option<i64> {
    time.map(Timestamp::as_micros)
}

/// SQLite counts in signed numbers.
fn key(id: JobId) -> i64 {
    i64::try_from(id.0).unwrap_or(i64::MAX)
}

fn id(key: i64) -> JobId {
    JobId(u64::try_from(key).unwrap_or(0))
}

/// The connection that writes.
pub(crate) struct Sqlite(Connection);

impl Sqlite {
    /// Lets the database grow to so many pages only: a full disk, for tests.
    #[cfg(test)]
    pub(crate) fn limit_pages(&self, pages: i64) {
        let _: i64 = self
            .0
            .pragma_update_and_check(None, "max_page_count", pages, |row| row.get(0))
            .unwrap();
    }
}

impl Backend for Sqlite {
    fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        // Dropped without a commit it is rolled back.
        let transaction = self.0.transaction()?;
        for write in writes {
            apply(&transaction, write)?;
        }
        transaction.commit()?;
        Ok(())
    }
}

fn apply(connection: &Connection, write: &Write) -> Result<(), StoreError> {
    match write {
        Write::Job(row) => put_job(connection, row),
        Write::State(state) => put_state(connection, state),
        Write::Log { job, op, entry } => {
            let mut insert = connection
                .prepare_cached("INSERT OR REPLACE INTO log VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
            insert.execute(params![
                key(*job),
                i64::try_from(entry.serial).unwrap_or(i64::MAX),
                i64::try_from(*op).unwrap_or(i64::MAX),
                entry.time.as_micros(),
                entry.kind.as_str(),
                entry.payload.to_string(),
            ])?;
            Ok(())
        }
        Write::Archive(ids) => {
            let mut update =
                connection.prepare_cached("UPDATE job SET archived = 1 WHERE id = ?1")?;
            for id in ids {
                update.execute([key(*id)])?;
            }
            Ok(())
        }
        Write::Forget(ids) => forget(connection, ids),
        Write::Config(changes) => {
            changes.iter().try_for_each(|change| put_change(connection, change))
        }
        Write::Setting(name, value) => put_setting(connection, name, value.as_deref()),
    }
}

fn put_job(connection: &Connection, row: &JobRow) -> Result<(), StoreError> {
    let mut insert = connection.prepare_cached(
        "INSERT OR REPLACE INTO job (id, status, received, start, end, states, ops)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    let state = &row.state;
    insert.execute(params![
        key(state.id),
        state.status.as_str(),
        row.received.as_micros(),
        micros(state.start),
        micros(state.end),
        state.ops,
        row.ops,
    ])?;
    Ok(())
}

fn put_state(connection: &Connection, state: &StateRow) -> Result<(), StoreError> {
    let mut update = connection.prepare_cached(
        "UPDATE job SET status = ?2, start = ?3, end = ?4, states = ?5 WHERE id = ?1",
    )?;
    update.execute(params![
        key(state.id),
        state.status.as_str(),
        micros(state.start),
        micros(state.end),
        state.ops,
    ])?;
    Ok(())
}

fn forget(connection: &Connection, ids: &[JobId]) -> Result<(), StoreError> {
    let last = SqliteReader::last_id_of(connection)?;
    put_setting(connection, LAST_ID, Some(&last.to_string()))?;
    let mut jobs = connection.prepare_cached("DELETE FROM job WHERE id = ?1")?;
    let mut log = connection.prepare_cached("DELETE FROM log WHERE job = ?1")?;
    for id in ids {
        jobs.execute([key(*id)])?;
        log.execute([key(*id)])?;
    }
    Ok(())
}

fn put_setting(connection: &Connection, name: &str, value: Option<&str>) -> Result<(), StoreError> {
    match value {
        Some(value) => connection
            .prepare_cached("INSERT OR REPLACE INTO setting VALUES (?1, ?2)")?
            .execute([name, value])?,
        None => {
            connection.prepare_cached("DELETE FROM setting WHERE name = ?1")?.execute([name])?
        }
    };
    Ok(())
}

fn put_change(connection: &Connection, change: &Change) -> Result<(), StoreError> {
    fn put(
        connection: &Connection,
        kind: &str,
        uuid: &str,
        object: &impl Serialize,
    ) -> Result<(), StoreError> {
        let body = serde_json::to_string(object)?;
        connection
            .prepare_cached("INSERT OR REPLACE INTO config VALUES (?1, ?2, ?3)")?
            .execute([kind, uuid, &body])?;
        Ok(())
    }
    let drop = |kind: &str, uuid: &str| -> Result<(), StoreError> {
        connection
            .prepare_cached("DELETE FROM config WHERE kind = ?1 AND uuid = ?2")?
            .execute([kind, uuid])?;
        Ok(())
    };
    match change {
        Change::Cluster(object) => put(connection, "cluster", "", &**object),
        Change::PutNode(object) => put(connection, "node", object.meta.uuid.as_str(), &**object),
        Change::DropNode(uuid) => drop("node", uuid.as_str()),
        Change::PutGroup(object) => put(connection, "group", object.meta.uuid.as_str(), &**object),
        Change::DropGroup(uuid) => drop("group", uuid.as_str()),
        Change::PutInstance(object) => {
            put(connection, "instance", object.meta.uuid.as_str(), &**object)
        }
        Change::DropInstance(uuid) => drop("instance", uuid.as_str()),
        Change::PutDisk(object) => put(connection, "disk", object.meta.uuid.as_str(), &**object),
        Change::DropDisk(uuid) => drop("disk", uuid.as_str()),
        Change::PutNetwork(object) => {
            put(connection, "network", object.meta.uuid.as_str(), &**object)
        }
        Change::DropNetwork(uuid) => drop("network", uuid.as_str()),
        Change::PutFilter(object) => put(connection, "filter", object.uuid.as_str(), &**object),
        Change::DropFilter(uuid) => drop("filter", uuid.as_str()),
    }
}

/// The connection that reads.
pub(crate) struct SqliteReader(Connection);

const JOB_COLUMNS: &str = "id, archived, received, start, end, ops, states";

fn read_stored(row: &Row<'_>) -> rusqlite::Result<Stored> {
    let time = |micros: Option<i64>| micros.map(Timestamp::from_micros);
    Ok(Stored {
        id: id(row.get(0)?),
        archived: row.get(1)?,
        received: Timestamp::from_micros(row.get(2)?),
        start: time(row.get(3)?),
        end: time(row.get(4)?),
        ops: row.get(5)?,
        states: row.get(6)?,
        log: Vec::new(),
    })
}

impl SqliteReader {
    fn last_id_of(connection: &Connection) -> Result<u64, StoreError> {
        let newest: Option<i64> =
            connection.query_row("SELECT max(id) FROM job", [], |row| row.get(0))?;
        let noted: Option<String> = connection
            .query_row("SELECT value FROM setting WHERE name = ?1", [LAST_ID], |row| row.get(0))
            .optional()?;
        let noted = noted.and_then(|text| text.parse().ok()).unwrap_or(0);
        Ok(newest.map_or(0, |newest| id(newest).0).max(noted))
    }

    fn log_of(&self, job: JobId) -> Result<Vec<(usize, LogEntry)>, StoreError> {
        let mut select = self.0.prepare_cached(
            "SELECT serial, op, time, kind, payload FROM log WHERE job = ?1 ORDER BY serial",
        )?;
        let mut rows = select.query([key(job)])?;
        let mut log = Vec::new();
        while let Some(row) = rows.next()? {
            let serial: i64 = row.get(0)?;
            let op: i64 = row.get(1)?;
            let kind: String = row.get(3)?;
            let payload: String = row.get(4)?;
            let entry = LogEntry {
                serial: u64::try_from(serial).unwrap_or(0),
                time: Timestamp::from_micros(row.get(2)?),
                kind: read_kind(&kind),
                payload: serde_json::from_str(&payload)?,
            };
            log.push((usize::try_from(op).unwrap_or(0), entry));
        }
        Ok(log)
    }

    fn jobs_where(&self, condition: &str) -> Result<Vec<Job>, StoreError> {
        let sql = format!("SELECT {JOB_COLUMNS} FROM job WHERE {condition} ORDER BY id");
        let mut select = self.0.prepare_cached(&sql)?;
        let mut rows = select.query([])?;
        let mut jobs = Vec::new();
        while let Some(row) = rows.next()? {
            let mut stored = read_stored(row)?;
            stored.log = self.log_of(stored.id)?;
            let id = stored.id;
            match stored.into_job() {
                Ok(job) => jobs.push(job),
                Err(error) => tracing::error!(job.id = id.0, %error, "a job cannot be read"),
            }
        }
        Ok(jobs)
    }

    fn ids(&self, sql: &str, values: impl rusqlite::Params) -> Result<Vec<JobId>, StoreError> {
        let mut select = self.0.prepare_cached(sql)?;
        let ids = select.query_map(values, |row| Ok(id(row.get(0)?)))?;
        Ok(ids.collect::<rusqlite::Result<_>>()?)
    }

    fn objects<T: DeserializeOwned>(&self, kind: &str) -> Result<Vec<Arc<T>>, StoreError> {
        let mut select =
            self.0.prepare_cached("SELECT body FROM config WHERE kind = ?1 ORDER BY uuid")?;
        let mut rows = select.query([kind])?;
        let mut objects = Vec::new();
        while let Some(row) = rows.next()? {
            let body = row.get_ref(0)?.as_str().map_err(StoreError::failed)?;
            let object = serde_json::from_str(body)
                .map_err(|error| StoreError::Failed(format!("a {kind} cannot be read: {error}")))?;
            objects.push(Arc::new(object));
        }
        Ok(objects)
    }
}

fn read_kind(kind: &str) -> LogKind {
    let kinds = [LogKind::RemoteImport, LogKind::JqueueTest, LogKind::DelayTest];
    kinds.into_iter().find(|known| known.as_str() == kind).unwrap_or(LogKind::Message)
}

impl Reader for SqliteReader {
    fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        let sql = format!("SELECT {JOB_COLUMNS} FROM job WHERE id = ?1");
        let mut select = self.0.prepare_cached(&sql)?;
        let Some(mut stored) = select.query_row([key(id)], read_stored).optional()? else {
            return Ok(None);
        };
        stored.log = self.log_of(id)?;
        stored.into_job().map(Some)
    }

    fn jobs(&self, with_archived: bool) -> Result<Vec<Job>, StoreError> {
        self.jobs_where(if with_archived { "1" } else { "archived = 0" })
    }

    fn listed(&self) -> Result<Vec<JobId>, StoreError> {
        self.ids("SELECT id FROM job WHERE archived = 0 ORDER BY id", [])
    }

    fn unfinished(&self) -> Result<Vec<Job>, StoreError> {
        let jobs = self.jobs_where("end IS NULL")?;
        Ok(jobs.into_iter().filter(|job| !is_over(job)).collect())
    }

    fn archivable(&self, before: Option<i64>, limit: usize) -> Result<Vec<JobId>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.ids(
            "SELECT id FROM job WHERE archived = 0 AND end < ?1 ORDER BY id LIMIT ?2",
            [before.unwrap_or(i64::MAX), limit],
        )
    }

    fn forgettable(&self, keep: u64, before: i64, limit: usize) -> Result<Vec<JobId>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let keep = i64::try_from(keep).unwrap_or(i64::MAX);
        let edge = "SELECT id FROM job WHERE archived = 1 ORDER BY id DESC LIMIT 1 OFFSET ?1";
        let edge: Option<i64> =
            self.0.prepare_cached(edge)?.query_row([keep], |row| row.get(0)).optional()?;
        self.ids(
            "SELECT id FROM job WHERE archived = 1 AND (id <= ?1 OR end < ?2) ORDER BY id LIMIT ?3",
            [edge.unwrap_or(0), before, limit],
        )
    }

    fn last_id(&self) -> Result<u64, StoreError> {
        Self::last_id_of(&self.0)
    }

    fn config(&self) -> Result<Option<Config>, StoreError> {
        let Some(cluster) = self.objects::<Cluster>("cluster")?.into_iter().next() else {
            return Ok(None);
        };
        let mut config = Config::new(Cluster::clone(&cluster));
        self.objects::<NodeGroup>("group")?.into_iter().for_each(|group| config.put_group(group));
        self.objects::<Node>("node")?.into_iter().for_each(|node| config.put_node(node));
        for network in self.objects::<Network>("network")? {
            config.put_network(network);
        }
        self.objects::<Disk>("disk")?.into_iter().for_each(|disk| config.put_disk(disk, None));
        for instance in self.objects::<Instance>("instance")? {
            config.put_instance(instance);
        }
        for filter in self.objects::<Filter>("filter")? {
            config.filters.insert(filter.uuid.clone(), filter);
        }
        Ok(Some(config))
    }

    fn setting(&self, name: &str) -> Result<Option<String>, StoreError> {
        let mut select = self.0.prepare_cached("SELECT value FROM setting WHERE name = ?1")?;
        Ok(select.query_row([name], |row| row.get(0)).optional()?)
    }
}

fn is_over(job: &Job) -> bool {
    let is_final = |status: Status| status.is_final();
    is_final(job.status())
}
