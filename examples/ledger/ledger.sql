-- The ledger's own tables, in any database: the one of the posts or another.
create table accounts (account text primary key, balance numeric not null);
create table ledger (
  entry bigint generated always as identity primary key,
  position text collate "C" not null unique,
  account text not null references accounts,
  amount numeric not null
);
-- After which event a channel goes on. Positions are ordered byte by byte.
create table ledger_position (channel text primary key, position text collate "C" not null);

-- Books one event and stores its position: both or neither, because a function is part of one transaction. False for an event
-- that is booked already. That happens: a program was killed, its server still commits what it sent last, and the next
-- program, which read the position before, is given the same event. The row of the position makes it wait for that commit.
create function book(event jsonb) returns boolean language plpgsql as $$
declare
  payment jsonb := event->'payload';
begin
  -- A gap (notify) is of plain NOTIFY alone, and payments are posted: there is nothing to book.
  if event->>'kind' <> 'message' and (event->>'kind', payment->>'reason') is distinct from ('gap', 'notify') then
    raise exception 'nothing is booked from here on: %', event using hint = 'examples/ledger/README.md says how to go on';
  end if;
  insert into ledger_position values (event->>'channel', event->>'id')
    on conflict (channel) do update set position = excluded.position where ledger_position.position < excluded.position;
  if not found or event->>'kind' = 'gap' then
    return false;
  end if;
  insert into accounts values (payment->>'account', (payment->>'amount')::numeric)
    on conflict (account) do update set balance = accounts.balance + excluded.balance;
  insert into ledger (position, account, amount) values (event->>'id', payment->>'account', (payment->>'amount')::numeric);
  return true;
end $$;
