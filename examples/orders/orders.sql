-- The shop's table. `postbus serve --demo` runs this file; so can you: psql -f examples/orders/orders.sql
-- A table of that name that is somebody else's is left alone.
do $$
begin
  if to_regclass('public.orders') is null then
    create table public.orders (
      id         bigint generated always as identity primary key,
      customer   text not null,
      item       text not null,
      quantity   int not null check (quantity > 0),
      total      numeric(10,2) not null,
      status     text not null default 'new' check (status in ('new', 'paid', 'packed', 'shipped')),
      placed_at  timestamptz not null default date_trunc('second', now())
    );
    comment on table public.orders is 'Postbus example: examples/orders';
  elsif obj_description('public.orders'::regclass, 'pg_class') is distinct from 'Postbus example: examples/orders' then
    raise exception 'public.orders is not the example''s table'
      using hint = 'Run the example in a database that has no table public.orders.';
  end if;
end $$;

select postbus.watch('public.orders')
  where not exists (select from postbus.watched where tbl = 'public.orders'::regclass);
