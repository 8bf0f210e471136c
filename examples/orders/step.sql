-- One thing happens in the shop: an order comes in, moves on (new, paid, packed, shipped), grows, or leaves the table.
-- Never more than 16 orders. `postbus serve --demo` runs this a few times a second;
-- without it: while psql -qf examples/orders/step.sql; do sleep 0.3; done
do $$
declare
  alive int;
  chosen public.orders;
  price numeric;
begin
  select count(*) into alive from public.orders;
  if alive < 8 or (alive < 16 and random() < 0.25) then
    select (array['Ada Lovelace', 'Grace Hopper', 'Alan Turing', 'Barbara Liskov', 'Edsger Dijkstra', 'Radia Perlman',
                  'Donald Knuth', 'Margaret Hamilton', 'Tony Hoare', 'Frances Allen'])[1 + floor(random() * 10)],
           (array['Teapot', 'Fountain pen', 'Desk lamp', 'Notebook', 'Bicycle bell', 'Wool blanket', 'Chess set',
                  'Paper clips'])[1 + floor(random() * 8)],
           1 + floor(random() * 4)
      into chosen.customer, chosen.item, chosen.quantity;
    price := 2 + length(chosen.item) * 1.45;
    insert into public.orders (customer, item, quantity, total)
      values (chosen.customer, chosen.item, chosen.quantity, chosen.quantity * price);
    return;
  end if;
  select * into chosen from public.orders order by random() limit 1 for update;
  if chosen.status = 'shipped' then
    delete from public.orders where id = chosen.id;
  elsif chosen.status = 'new' and chosen.quantity < 9 and random() < 0.2 then
    update public.orders set quantity = quantity + 1, total = total / quantity * (quantity + 1) where id = chosen.id;
  else
    update public.orders
      set status = case status when 'new' then 'paid' when 'paid' then 'packed' else 'shipped' end
      where id = chosen.id;
  end if;
end $$;
