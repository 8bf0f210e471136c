-- Runs first in the migrations' transaction, under their advisory lock. Each migration inserts its row before it works,
-- so that even without the lock the second of two would fail and undo itself whole.
create schema if not exists postbus;
create table if not exists postbus.migrations (
  number     integer primary key,
  name       text not null,
  breaking   boolean not null,
  applied_at timestamptz not null default now()
);
