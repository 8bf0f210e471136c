select id, is_json, payload from postbus.messages where segment = {} and id {}
