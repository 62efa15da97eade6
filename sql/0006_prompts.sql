-- Spaces at the end of a prompt are no part of it (core/example.h): what facts are found by and
-- supersede each other by has none, as facts that arrive from here on. fact_json stays.

UPDATE facts SET prompt = rtrim(prompt, ' ') WHERE substr(prompt, -1) = ' ';
