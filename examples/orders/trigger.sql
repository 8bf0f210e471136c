-- The other way, without Postbus' help: a trigger that notifies. Postbus hears it on the channel `events` as it is, but
-- each event is bound to 8 kB, and the commits of all notifying sessions queue up behind one lock.
create table if not exists products (id serial primary key, name text, quantity float);

create or replace function notify_event() returns trigger as $$
declare
  data json;
  notification json;
begin
  -- Convert the old or new row to JSON, based on the kind of action.
  if (TG_OP = 'DELETE') then
    data = row_to_json(OLD);
  else
    data = row_to_json(NEW);
  end if;
  -- Construct the notification as a JSON string.
  notification = json_build_object('table', TG_TABLE_NAME, 'action', TG_OP, 'data', data);
  -- Execute pg_notify(channel, notification)
  perform pg_notify('events', notification::text);
  -- Result is ignored since this is an AFTER trigger.
  return null;
end;
$$ language plpgsql;

create or replace trigger products_notify_event
  after insert or update or delete on products
  for each row execute procedure notify_event();
