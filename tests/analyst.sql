SELECT country, count(*) AS users, count(DISTINCT plan) FROM users GROUP BY country ORDER BY users DESC, country
SELECT date_trunc('MONTH', ts) AS month, sum(amount) AS revenue, round(avg(amount), 2) FROM events WHERE kind = 'buy' GROUP BY 1 ORDER BY 1
SELECT u.name, coalesce(sum(e.amount), 0) AS total FROM users u LEFT JOIN events e ON u.id = e.user_id GROUP BY u.name ORDER BY total DESC NULLS LAST, u.name
SELECT kind, percentile_approx(amount, 0.5), percentile(amount, 0.9), max(amount) - min(amount) AS spread FROM events GROUP BY kind ORDER BY kind
SELECT user_id, ts, lag(ts) OVER (PARTITION BY user_id ORDER BY ts) AS before, row_number() OVER (PARTITION BY user_id ORDER BY ts DESC) AS r FROM events ORDER BY user_id, ts
SELECT user_id, amount, sum(amount) OVER (PARTITION BY user_id ORDER BY ts ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS running FROM events ORDER BY user_id, ts
SELECT * FROM (SELECT user_id, kind, rank() OVER (ORDER BY amount DESC) AS r FROM events) WHERE r <= 3 ORDER BY r, user_id, kind
SELECT user_id, kind, amount FROM events QUALIFY row_number() OVER (PARTITION BY user_id ORDER BY amount DESC NULLS LAST, ts) = 1 ORDER BY user_id
SELECT kind, country, sum(amount) FROM events JOIN users ON user_id = id GROUP BY ROLLUP (kind, country) ORDER BY kind NULLS LAST, country NULLS LAST
SELECT kind, grouping(kind), grouping_id(kind, user_id), count(*) FROM events GROUP BY CUBE (kind, user_id) ORDER BY 1, 2, 3, 4
SELECT kind, user_id, count(*) FROM events GROUP BY GROUPING SETS ((kind), (user_id), ()) ORDER BY kind, user_id, 3
SELECT tag, count(*) FROM users LATERAL VIEW explode(tags) t AS tag GROUP BY tag ORDER BY tag
SELECT id, pos, tag FROM users LATERAL VIEW OUTER posexplode(tags) t AS pos, tag ORDER BY id, pos
SELECT id, explode(tags) AS tag FROM users ORDER BY id, tag
SELECT id, posexplode_outer(tags) FROM users ORDER BY id, pos
SELECT id, k, v FROM users LATERAL VIEW explode(props) AS k, v ORDER BY id, k
SELECT id, props['lang'], map_keys(props), size(props), element_at(props, 'x') FROM users ORDER BY id
SELECT id, address.city, address.zip AS z FROM users ORDER BY id
SELECT id, address.* FROM users ORDER BY id
SELECT transform(tags, t -> upper(t)) AS up, filter(tags, t -> length(t) > 1), exists(tags, t -> t = 'a'), forall(tags, t -> t <> 'z') FROM users ORDER BY id
SELECT aggregate(transform(tags, t -> length(t)), 0, (acc, x) -> acc + x, acc -> acc * 10) FROM users ORDER BY id
SELECT id, array_join(sort_array(array_distinct(tags)), ','), array_contains(tags, 'a'), size(tags) FROM users ORDER BY id
SELECT user_id, collect_list(kind), sort_array(collect_set(kind)) FROM (SELECT * FROM events ORDER BY ts) GROUP BY user_id ORDER BY user_id
SELECT * FROM (SELECT user_id, kind, amount FROM events) PIVOT (sum(amount) FOR kind IN ('buy', 'view' AS v)) ORDER BY user_id
SELECT * FROM (SELECT user_id, kind, amount FROM events) PIVOT (sum(amount) AS s, count(*) AS n FOR kind IN ('buy', 'view')) ORDER BY user_id
SELECT * FROM (SELECT id, CAST(id * 2 AS INT) AS a, id AS b FROM users) UNPIVOT (val FOR name IN (a, b)) ORDER BY id, name
SELECT kind, count_if(amount > 10) / count(*) AS share, sum(CASE WHEN amount > 10 THEN 1 ELSE 0 END), avg(CASE WHEN kind = 'buy' THEN amount END) FROM events GROUP BY kind ORDER BY kind
WITH first AS (SELECT user_id, min(ts) AS at FROM events GROUP BY user_id), late AS (SELECT * FROM first WHERE at > TIMESTAMP'2026-01-02 00:00:00') SELECT count(*), min(at), max(date(at)) FROM late
SELECT a.user_id, b.user_id FROM events a JOIN events b ON a.user_id < b.user_id AND a.kind = b.kind AND b.ts BETWEEN a.ts AND a.ts + INTERVAL 3 DAYS ORDER BY 1, 2
SELECT id FROM users WHERE id NOT IN (SELECT user_id FROM events WHERE user_id IS NOT NULL) ORDER BY id
SELECT name FROM users u WHERE EXISTS (SELECT 1 FROM events e WHERE e.user_id = u.id AND e.kind = 'buy') ORDER BY name
SELECT name, (SELECT max(ts) FROM events e WHERE e.user_id = u.id) AS latest FROM users u ORDER BY name
SELECT u.id, x.n, x.total FROM users u, LATERAL (SELECT count(*) AS n, sum(amount) AS total FROM events e WHERE e.user_id = u.id) x ORDER BY u.id
SELECT id FROM users UNION SELECT user_id FROM events ORDER BY 1
SELECT id FROM users INTERSECT SELECT user_id FROM events ORDER BY id
SELECT id FROM users EXCEPT SELECT user_id FROM events ORDER BY id
SELECT id, 'u' AS src FROM users UNION ALL SELECT user_id, 'e' FROM events ORDER BY src, id
SELECT user_id FROM events MINUS SELECT id FROM users ORDER BY 1
SELECT id, name FROM users LEFT ANTI JOIN events ON id = user_id ORDER BY id
SELECT id, name FROM users LEFT SEMI JOIN events ON id = user_id ORDER BY id
SELECT * FROM users a JOIN (SELECT id, name FROM users) b USING (id) ORDER BY id LIMIT 2
SELECT id, count(*) FROM users FULL OUTER JOIN (SELECT user_id AS id FROM events) e USING (id) GROUP BY id ORDER BY id
SELECT u.id, e.kind FROM users u RIGHT JOIN events e ON u.id = e.user_id ORDER BY e.ts
SELECT date_format(ts, 'yyyy-MM') AS m, dayofweek(ts), weekofyear(ts), quarter(ts), hour(ts) FROM events ORDER BY ts
SELECT datediff(DATE'2026-03-01', date(ts)), months_between(DATE'2026-03-01', ts), add_months(ts, 1), last_day(ts), next_day(ts, 'Mon'), trunc(ts, 'MM') FROM events ORDER BY ts
SELECT unix_timestamp(ts), from_unixtime(unix_timestamp(ts), 'dd.MM.yyyy HH:mm'), to_date(ts), CAST(ts AS DATE), year(ts) * 100 + month(ts) FROM events ORDER BY ts
SELECT ts + INTERVAL 1 DAY, ts - INTERVAL 90 MINUTES, date_add(ts, 7), date_sub(ts, 1), timestampdiff(HOUR, ts, TIMESTAMP'2026-02-01 00:00:00'), timestampadd(DAY, 2, ts) FROM events ORDER BY ts
SELECT extract(YEAR FROM ts), extract(DOW FROM ts), date_part('month', ts), make_date(2026, 2, 3), make_timestamp(2026, 2, 3, 4, 5, 6.5) FROM events ORDER BY ts LIMIT 1
SELECT from_utc_timestamp(ts, 'Europe/Berlin'), to_utc_timestamp(ts, 'America/New_York'), date_trunc('HOUR', from_utc_timestamp(ts, 'Asia/Tokyo')) FROM events ORDER BY ts
SELECT upper(name), initcap(name), length(name), reverse(name), left(name, 2), lpad(name, 8, '*'), substring(name, 2), instr(name, 'n'), replace(name, 'n', 'm') FROM users ORDER BY id
SELECT concat_ws('-', name, country, plan), concat(name, ':', id), name || '/' || country, trim('  x '), split(email, '@')[1], substring_index(email, '@', -1) FROM users ORDER BY id
SELECT regexp_extract(email, '@(.*)\\.', 1), regexp_replace(email, '[aeiou]', ''), email RLIKE '^[a-z]+@', email LIKE '%.org', name ILIKE 'A%', email NOT LIKE '%x%' FROM users ORDER BY id
SELECT CASE WHEN age < 18 THEN 'child' WHEN age < 65 THEN 'adult' ELSE 'senior' END AS band, count(*) FROM users GROUP BY 1 ORDER BY 1
SELECT coalesce(plan, 'none'), nvl(age, -1), nullif(plan, 'free'), if(age > 30, 'old', 'young'), ifnull(country, '?'), nvl2(plan, 1, 0), decode(plan, 'free', 0, 'pro', 1, -1) FROM users ORDER BY id
SELECT greatest(age, 30), least(age, 30, id), abs(-age), sign(age - 30), age % 7, pmod(-age, 7), age DIV 7, age / 7, sqrt(age), power(age, 2), round(age / 7, 3) FROM users ORDER BY id
SELECT get_json_object(payload, '$.page'), get_json_object(payload, '$.device.os'), get_json_object(payload, '$.items[0]'), json_array_length(get_json_object(payload, '$.items')) FROM events ORDER BY ts
SELECT from_json(payload, 'page STRING, n INT').page, from_json(payload, 'page STRING, n INT').n + 1 FROM events ORDER BY ts
SELECT to_json(struct(id, name)), to_json(tags), to_json(named_struct('a', age, 'b', plan)) FROM users ORDER BY id
SELECT page, n FROM events LATERAL VIEW json_tuple(payload, 'page', 'n') j AS page, n ORDER BY ts
SELECT id, CAST(age AS STRING), CAST(age AS DOUBLE), CAST('12' AS INT), CAST(id AS DECIMAL(10,2)), CAST(1.5 AS INT), TRY_CAST(name AS INT), age::string FROM users ORDER BY id
SELECT sum(price), avg(price), max(price * 1.19), sum(price * qty), round(sum(price * qty) / sum(qty), 4) FROM items
SELECT sku, price * qty AS total, price / 3, price - 0.01, -price, price % 2, CAST(price AS INT), CAST(price AS STRING) FROM items ORDER BY sku
SELECT floor(price), ceil(price), round(price, 1), bround(price, 1), price > 10, price = 9.99, qty / 2, qty * 1.5 FROM items ORDER BY sku
SELECT stddev(qty), var_pop(qty), corr(qty, price), covar_samp(qty, price), skewness(qty), kurtosis(qty), median(qty) FROM items
SELECT max_by(name, age), min_by(name, age), first(name, true), any_value(country) IS NOT NULL, bool_or(age > 30), every(age > 3) FROM users WHERE age IS NOT NULL AND name IS NOT NULL
SELECT approx_count_distinct(country), count(DISTINCT country, plan), count(age), sum(DISTINCT age), mode(country) IS NULL FROM users
SELECT kind, count(*) FILTER (WHERE amount > 10) AS big, sum(amount) FILTER (WHERE user_id = 1) FROM events GROUP BY kind HAVING count(*) > 1 ORDER BY kind
SELECT kind, sum(amount) AS amount FROM events GROUP BY kind HAVING amount > 20 ORDER BY amount DESC
SELECT kind AS k, count(*) AS n FROM events GROUP BY k HAVING n > 1 ORDER BY n DESC, k
SELECT country, plan, count(*) FROM users GROUP BY ALL ORDER BY 1, 2
SELECT DISTINCT kind FROM events ORDER BY kind
SELECT ntile(2) OVER (ORDER BY ts), percent_rank() OVER (ORDER BY ts), cume_dist() OVER (ORDER BY ts), dense_rank() OVER (ORDER BY kind) FROM events ORDER BY ts
SELECT first_value(kind) OVER w, last_value(kind) OVER w, nth_value(kind, 2) OVER w, lead(amount, 1, 0.0D) OVER w FROM events WINDOW w AS (PARTITION BY user_id ORDER BY ts) ORDER BY ts
SELECT avg(amount) OVER (PARTITION BY user_id), max(amount) OVER (), count(*) OVER (PARTITION BY kind ORDER BY ts ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING) FROM events ORDER BY ts
SELECT sum(amount) OVER (ORDER BY date(ts) RANGE BETWEEN INTERVAL 7 DAYS PRECEDING AND CURRENT ROW) FROM events ORDER BY ts
SELECT last_value(amount) IGNORE NULLS OVER (ORDER BY ts), first_value(amount, true) OVER (ORDER BY ts), lag(amount) IGNORE NULLS OVER (ORDER BY ts) FROM events ORDER BY ts
SELECT amount - lag(amount) OVER (PARTITION BY user_id ORDER BY ts) AS delta, amount / sum(amount) OVER (PARTITION BY user_id) AS share FROM events ORDER BY ts
SELECT date(ts) AS d, sum(count(*)) OVER (ORDER BY date(ts)) AS cumulative FROM events GROUP BY date(ts) ORDER BY d
SELECT d, coalesce(n, 0) FROM (SELECT explode(sequence(DATE'2026-01-01', DATE'2026-01-05')) AS d) LEFT JOIN (SELECT date(ts) AS d, count(*) AS n FROM events GROUP BY 1) USING (d) ORDER BY d
SELECT id FROM range(5) WHERE id % 2 = 0 ORDER BY id DESC
SELECT * FROM VALUES (1, 'a'), (2, NULL) AS t(x, y) WHERE y IS NOT NULL OR x > 1 ORDER BY x
SELECT col1, col2 FROM VALUES (1, 2.50), (3, 4)
SELECT array(1, 2, 3)[1], map('a', 1, 'b', 2)['b'], struct(1 AS a, 'x' AS b).b, named_struct('p', 2).p, element_at(array(1, 2), -1), slice(array(1, 2, 3), 2, 2)
SELECT array_union(array(1, 2), array(2, 3)), array_intersect(array(1, 2), array(2)), array_except(array(1, 2), array(2)), arrays_overlap(array(1), array(1)), flatten(array(array(1), array(2, 3))), array_repeat('x', 2), array_position(array(5, 6), 6), array_remove(array(1, 2), 1), sort_array(array(2, 1), false), array_max(array(1, 3)), array_min(array(1, 3))
SELECT map_concat(map('a', 1), map('b', 2)), map_from_arrays(array('x'), array(1)), map_entries(map('k', 1)), map_filter(map('a', 1, 'b', 2), (k, v) -> v > 1), transform_values(map('a', 1), (k, v) -> v * 10), zip_with(array(1, 2), array(3, 4), (a, b) -> a + b), str_to_map('a:1,b:2')
SELECT arrays_zip(array(1, 2), array('a', 'b')), sequence(1, 10, 3), shuffle IS NULL FROM VALUES (CAST(NULL AS INT)) AS t(shuffle)
SELECT md5('x'), sha1('x'), sha2('x', 256), crc32('x'), hex(255), unhex('41'), base64('hi'), CAST(unbase64('aGk=') AS STRING), conv('ff', 16, 10), bin(10)
SELECT format_number(1234567.891, 2), format_string('%s is %d years, %.1f', 'Ann', 30, 1.25D), lpad(CAST(7 AS STRING), 3, '0'), soundex('Robert'), levenshtein('kitten', 'sitting'), ascii('A'), char(66), space(2) || '|', repeat('ab', 2), translate('abc', 'ab', 'xy')
SELECT try_divide(1, 0), try_add(2147483647, 1), try_cast('x' AS INT), try_to_timestamp('nope'), nullif(1, 1), 1 <=> NULL, NULL IS NULL, isnan(CAST('NaN' AS DOUBLE))
SELECT width_bucket(5.3, 0.2, 10.6, 5), factorial(5), cbrt(27), log(2, 8), log10(1000), exp(1), ln(2), pi(), degrees(pi()), shiftleft(1, 4), shiftright(16, 2), 5 & 3, 5 | 3, 5 ^ 3, ~5, bit_count(7)
SELECT typeof(1), typeof(1.5), typeof('a'), typeof(array(1)), typeof(DATE'2026-01-01'), typeof(1L + 1), typeof(1 / 2), typeof(map('a', 1.0))
SELECT to_date('31/01/2026', 'dd/MM/yyyy'), to_timestamp('2026-01-31 10:00', 'yyyy-MM-dd HH:mm'), date_format(TIMESTAMP'2026-01-31 13:05:09', 'h:mm a EEE'), date'2026-01-31' + 1, DATE'2026-01-31' + INTERVAL 1 MONTH
SELECT posexplode(array('x', 'y')) AS (i, v)
SELECT stack(2, 1, 'a', 2, 'b') AS (n, s)
SELECT inline(array(struct(1 AS a, 'x' AS b), struct(2 AS a, 'y' AS b)))
SELECT id, a, a * 2 AS b, b + 1 AS c FROM (SELECT id, age AS a FROM users) ORDER BY id
SELECT users.id, users.name AS `the name` FROM users WHERE `name` IS NOT NULL ORDER BY `the name`
SELECT name FROM users WHERE country IN ('DE', 'US') AND (age BETWEEN 20 AND 40 OR plan = 'pro') AND NOT (name LIKE 'B%') ORDER BY name
SELECT name FROM users ORDER BY age DESC NULLS LAST, name ASC NULLS FIRST LIMIT 3 OFFSET 1
SELECT name, age FROM users ORDER BY age, name
SELECT /*+ BROADCAST(u) */ count(*) FROM events e JOIN users u ON e.user_id = u.id
SELECT e.kind, u.country, sum(e.amount) AS total, sum(sum(e.amount)) OVER (PARTITION BY u.country) AS by_country FROM events e JOIN users u ON u.id = e.user_id GROUP BY e.kind, u.country ORDER BY 1, 2
SELECT kind, total, total / sum(total) OVER () AS share FROM (SELECT kind, sum(amount) AS total FROM events GROUP BY kind) ORDER BY share DESC NULLS LAST
SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY amount), percentile(amount, array(0.25, 0.75)) FROM events
SELECT listagg(kind, ',') WITHIN GROUP (ORDER BY ts), string_agg(DISTINCT country, '|') IS NOT NULL FROM events JOIN users ON id = user_id
SELECT a.kind, b.kind FROM (SELECT DISTINCT kind FROM events) a CROSS JOIN (SELECT DISTINCT kind FROM events) b WHERE a.kind < b.kind ORDER BY 1, 2
SELECT id, CASE country WHEN 'DE' THEN 'Germany' WHEN 'US' THEN 'States' END AS land FROM users ORDER BY id
SELECT sum(amount), avg(amount), count(amount), min(ts), max(ts) FROM events WHERE user_id = 999
SELECT max(struct_id) FROM (SELECT id AS struct_id FROM users)
SELECT hash('Spark', 2), hash(id), hash(name, age) FROM users ORDER BY id
SELECT * EXCEPT (tags, props, address) FROM users ORDER BY id
SELECT u.*, 1 AS one FROM (SELECT id, name FROM users) u ORDER BY id
SELECT count(*), count(1), count(NULL), sum(NULL + 1), max(NULL + 1.5D) FROM users
SELECT bool_and(amount > 0), min(kind), max(kind), kind = max(kind) OVER () FROM events GROUP BY kind ORDER BY kind
SELECT date_trunc('week', ts) AS week, count(DISTINCT user_id) AS wau FROM events GROUP BY date_trunc('week', ts) ORDER BY week
WITH d AS (SELECT user_id, date(ts) AS day FROM events GROUP BY 1, 2), n AS (SELECT *, lag(day) OVER (PARTITION BY user_id ORDER BY day) AS prev FROM d) SELECT user_id, sum(CASE WHEN datediff(day, prev) = 1 THEN 1 ELSE 0 END) AS streak FROM n GROUP BY user_id ORDER BY user_id
WITH s AS (SELECT user_id, ts, CASE WHEN unix_timestamp(ts) - lag(unix_timestamp(ts)) OVER (PARTITION BY user_id ORDER BY ts) > 1800 THEN 1 ELSE 0 END AS fresh FROM events) SELECT user_id, sum(fresh) OVER (PARTITION BY user_id ORDER BY ts) AS session FROM s ORDER BY user_id, ts
WITH f AS (SELECT user_id, min(date(ts)) AS d0 FROM events GROUP BY user_id) SELECT d0, datediff(date(e.ts), d0) AS age, count(DISTINCT e.user_id) FROM f JOIN events e USING (user_id) GROUP BY 1, 2 ORDER BY 1, 2
SELECT width, count(*) FROM (SELECT floor(amount / 10) * 10 AS width FROM events) GROUP BY width ORDER BY width
SELECT concat(CAST(round(100.0 * count_if(kind = 'buy') / count(*), 1) AS STRING), '%') FROM events
SELECT year(ts) AS y, month(ts) AS m, sum(amount) - lag(sum(amount)) OVER (ORDER BY year(ts), month(ts)) AS growth FROM events GROUP BY 1, 2 ORDER BY 1, 2
SELECT parse_url('https://a.org/x?k=v', 'HOST'), parse_url('https://a.org/x?k=v', 'QUERY', 'k'), url_encode('a b&c'), url_decode('a+b'), split_part('a.b.c', '.', 2), regexp_extract_all('a1b2', '([0-9])', 1), regexp_count('aXbX', 'X')
SELECT startswith(email, name), endswith(email, 'org'), contains(email, '@'), position('@' IN email), locate('@', email), overlay(name PLACING 'XX' FROM 2), btrim('xxaxx', 'x'), ltrim('  a'), char_length(name) FROM users ORDER BY id
SELECT sum(price) OVER (ORDER BY sku), avg(price) OVER (PARTITION BY qty > 2) FROM items ORDER BY sku
SELECT a, b, a = b, a < b FROM VALUES (1, 1L), (2, 3L) AS t(a, b)
SELECT 1 = '1', 'a' < 'b', 2.0 > 1.5, DATE'2026-01-01' < '2026-02-01', true AND NULL, NOT false, 5 BETWEEN 1 AND 10, 1 IN (1, 2), 'a' NOT IN ('b')
SELECT 7 / 2, 7 DIV 2, 7 % 3, 1.0 / 3, 2 * 1.5, 10 - 0.1, 1e3 + 1, -5, 0.1 + 0.2, 1L * 3, 5.0 / 2
SELECT current_date() = to_date(current_timestamp()), now() >= TIMESTAMP'2020-01-01 00:00:00'
SELECT id, sort_array(map_keys(props)), map_values(map('a', 1)), map_contains_key(props, 'lang') FROM users ORDER BY id
SELECT array_agg(name) IS NOT NULL, collect_set(1), array_sort(collect_list(age)) AS ages, size(collect_list(plan)) FROM users
SELECT id, exists(tags, x -> x IS NULL), filter(tags, (x, i) -> i = 0), transform(tags, (x, i) -> concat(x, i)), array_compact(tags), array_append(tags, 'z') FROM users ORDER BY id
SELECT (SELECT count(*) FROM users) AS users, (SELECT count(*) FROM events) AS events
SELECT * FROM (SELECT 1 AS a UNION ALL SELECT 2.5) ORDER BY a
SELECT id FROM users TABLESAMPLE (100 PERCENT) ORDER BY id
SELECT kind, sum(amount) FROM events GROUP BY kind WITH ROLLUP ORDER BY kind NULLS LAST
SELECT tag, count(*) AS n FROM (SELECT explode(tags) AS tag FROM users) GROUP BY tag HAVING count(*) >= 1 ORDER BY n DESC, tag
SELECT u.id, t.tag, u.name FROM users u LATERAL VIEW explode(u.tags) t AS tag WHERE t.tag <> 'a' ORDER BY u.id, t.tag
SELECT date_diff(DAY, ts, TIMESTAMP'2026-03-01 00:00:00'), dateadd(MONTH, 1, date(ts)), datediff(WEEK, ts, TIMESTAMP'2026-03-01 00:00:00') FROM events ORDER BY ts
SELECT unix_date(DATE'2026-01-01'), date_from_unix_date(20454), timestamp_seconds(0), unix_millis(TIMESTAMP'2026-01-01 00:00:00'), dayname(DATE'2026-01-01'), monthname(DATE'2026-01-01'), weekday(DATE'2026-01-01')
SELECT first(name) OVER (ORDER BY id), any_value(name) OVER (PARTITION BY country ORDER BY id) FROM users ORDER BY id
SELECT name, age, avg(age) OVER (ORDER BY age RANGE BETWEEN 10 PRECEDING AND 10 FOLLOWING) FROM users WHERE age IS NOT NULL ORDER BY age, name
SELECT string(age), int('4'), double(age), date('2026-01-01'), boolean('true'), bigint(age) FROM users ORDER BY id
SELECT count(*) FROM users u JOIN events e ON u.id = e.user_id AND e.amount > 5 JOIN items i ON i.qty = u.id
SELECT named_struct('a', 1, 'b', named_struct('c', 'x')).b.c, array(struct(1 AS q), struct(2 AS q)).q AS qs, array(named_struct('n', 'z'))[0].n
SELECT kind, count(*) AS cnt, count(*) * 100.0 / sum(count(*)) OVER () AS pct FROM events GROUP BY kind ORDER BY cnt DESC, kind
SELECT date(ts) d, hour(ts) h, count(*) c FROM events GROUP BY date(ts), hour(ts) ORDER BY d, h
SELECT date_format(ts, 'E') AS dow, sum(amount) FROM events GROUP BY date_format(ts, 'E') ORDER BY dow
SELECT * FROM events WHERE ts >= '2026-01-02' AND ts < DATE'2026-02-01' ORDER BY ts
SELECT * FROM events WHERE date(ts) BETWEEN '2026-01-01' AND '2026-01-05' AND amount IS NOT NULL ORDER BY ts
SELECT id, name FROM users WHERE id IN (SELECT user_id FROM events WHERE amount > (SELECT avg(amount) FROM events)) ORDER BY id
SELECT COALESCE(country, 'unknown') c, AVG(age) a, MIN(age), MAX(age), STDDEV(age) FROM users GROUP BY COALESCE(country, 'unknown') ORDER BY c
SELECT u.country, COUNT(DISTINCT e.user_id) AS buyers, SUM(e.amount) / COUNT(DISTINCT e.user_id) AS arpu FROM events e INNER JOIN users u ON e.user_id = u.id WHERE e.kind = 'buy' GROUP BY u.country HAVING COUNT(*) >= 1 ORDER BY arpu DESC
SELECT t.user_id, t.kind, t.prev_kind FROM (SELECT user_id, kind, ts, LAG(kind, 1, 'none') OVER (PARTITION BY user_id ORDER BY ts) AS prev_kind FROM events) t WHERE t.prev_kind <> t.kind ORDER BY t.ts
SELECT percentile(age, 0.25) p25, percentile(age, 0.5) p50, percentile_approx(age, array(0.25, 0.5, 0.75)) q FROM users
SELECT size(split('a,b,c', ',')), split('a b', ' ')[0], concat('a', 1, true), upper(substr('hello', 1, 1)) || substr('hello', 2)
SELECT CASE WHEN amount IS NULL THEN 'none' WHEN amount >= 10 THEN 'big' ELSE 'small' END size, count(*) n FROM events GROUP BY CASE WHEN amount IS NULL THEN 'none' WHEN amount >= 10 THEN 'big' ELSE 'small' END ORDER BY n DESC, size
SELECT e1.user_id, e1.ts, (SELECT count(*) FROM events e2 WHERE e2.user_id = e1.user_id AND e2.ts < e1.ts) AS earlier FROM events e1 ORDER BY e1.ts
SELECT array_sort(collect_set(kind)) AS kinds, user_id FROM events GROUP BY user_id ORDER BY user_id
SELECT map_from_entries(collect_list(struct(name, age))) IS NOT NULL AS ok FROM users WHERE name IS NOT NULL
SELECT user_id, named_struct('first', min(ts), 'last', max(ts)) AS span FROM events GROUP BY user_id ORDER BY user_id
SELECT max(named.a) FROM (SELECT named_struct('a', id) AS named FROM users)
SELECT explode(map('a', 1, 'b', 2))
SELECT id, k FROM users LATERAL VIEW OUTER explode(map_keys(props)) t AS k ORDER BY id, k
SELECT id, tag, other FROM users LATERAL VIEW explode(tags) a AS tag LATERAL VIEW explode(array(1, 2)) b AS other ORDER BY id, tag, other
SELECT ts, window_start FROM (SELECT ts, date_trunc('HOUR', ts) AS window_start FROM events) ORDER BY ts
SELECT from_unixtime(1795168800, 'yyyy-MM-dd'), to_timestamp('2026-01-01T10:00:00Z'), CAST('2026-01-01' AS TIMESTAMP), unix_timestamp('2026-01-01', 'yyyy-MM-dd')
SELECT row_number() OVER (ORDER BY amount DESC NULLS LAST, ts) rn, * FROM events ORDER BY rn
SELECT name, rank() OVER (PARTITION BY country ORDER BY age DESC) r FROM users ORDER BY country, r, name
SELECT kind, sum(amount) s, rank() OVER (ORDER BY sum(amount) DESC) r FROM events GROUP BY kind ORDER BY r
SELECT user_id, sum(amount) FROM events GROUP BY user_id ORDER BY sum(amount) DESC NULLS LAST LIMIT 2
SELECT kind FROM events GROUP BY kind ORDER BY max(ts)
SELECT DISTINCT country, plan FROM users ORDER BY country DESC, plan
SELECT count(DISTINCT CASE WHEN kind = 'buy' THEN user_id END) AS buyers, count(DISTINCT user_id) AS all_users FROM events
SELECT first_value(kind) IGNORE NULLS OVER (PARTITION BY user_id ORDER BY ts) k FROM events ORDER BY ts
SELECT id, if(size(tags) > 0, tags[0], 'none') AS t0 FROM users WHERE tags IS NOT NULL ORDER BY id
SELECT id, array_contains(map_keys(props), 'x'), coalesce(props['x'], '0') FROM users ORDER BY id
SELECT try_element_at(tags, 5), get(tags, 9), try_element_at(props, 'q') FROM users ORDER BY id
SELECT round(sum(price * qty), 2) AS total, sum(qty) AS n, round(sum(price * qty) / sum(qty), 2) AS avg_price FROM items
SELECT sku, price, sum(price) OVER (ORDER BY sku ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS s2, price / sum(price) OVER () AS share FROM items ORDER BY sku
SELECT a.sku, b.sku FROM items a, items b WHERE a.price < b.price ORDER BY 1, 2
SELECT NULLIF(sku, 'p') x, NVL(price, 0) y, GREATEST(price, qty), LEAST(price, 1) FROM items ORDER BY sku
SELECT CAST(price AS DOUBLE) / 3, CAST(qty AS FLOAT) / 2, qty / 0.5, price * 100, price + qty FROM items ORDER BY sku
WITH RECURSIVE_ AS (SELECT 1 AS x) SELECT * FROM RECURSIVE_
WITH a AS (SELECT 1 AS x), b AS (SELECT x + 1 AS y FROM a) SELECT * FROM a JOIN b ON a.x < b.y
SELECT * FROM (VALUES (1, 'x'), (2, 'y')) AS v(n, s) ORDER BY n DESC
SELECT 1 AS one, 'it''s' AS q, "dq" AS d, NULL AS n, true AS t, DATE'2026-01-01' AS dt, 1.10 AS dec, 1e2 AS dbl
SELECT age IS NULL AS a, age IS NOT NULL AS b, NOT age > 20 AS c, age <=> NULL AS d FROM users ORDER BY id
SELECT u.name n, e.kind k FROM users AS u LEFT OUTER JOIN events AS e ON e.user_id = u.id AND e.kind = 'view' ORDER BY u.id, e.ts
SELECT count(*) FROM users CROSS JOIN items
SELECT * FROM users NATURAL JOIN (SELECT id, 1 AS flag FROM users WHERE id < 3) ORDER BY id
SELECT kind, avg(amount) OVER (PARTITION BY kind ORDER BY ts ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) AS moving FROM events ORDER BY kind, ts
SELECT d.day, count(e.kind) FROM (SELECT explode(sequence(to_date('2026-01-01'), to_date('2026-01-03'), interval 1 day)) AS day) d LEFT JOIN events e ON date(e.ts) = d.day GROUP BY d.day ORDER BY d.day
SELECT sum(amount) FILTER (WHERE kind = 'buy') - sum(amount) FILTER (WHERE kind = 'refund') AS net FROM events
SELECT year(ts) || '-Q' || quarter(ts) AS q, sum(amount) FROM events GROUP BY 1 ORDER BY 1
SELECT bool_or(kind = 'buy') AS bought, any(kind = 'refund') AS refunded, some(amount > 100) AS large, user_id FROM events GROUP BY user_id ORDER BY user_id
SELECT json_object_keys('{"a":1,"b":2}'), get_json_object('{"a":{"b":"c"}}', '$.a.b'), to_json(map('a', 1)), from_json('{"x":1}', 'x INT').x
SELECT ceil(1.2), ceil(-1.2D), floor(1.8), round(2.5), bround(2.5), round(-1.55, 1), round(1234, -2), trunc(DATE'2026-03-15', 'YEAR')
SELECT * FROM events ORDER BY amount DESC NULLS FIRST, ts LIMIT 3
SELECT id FROM users WHERE name LIKE '%n%' OR email RLIKE 'org$' ORDER BY id
SELECT id FROM users WHERE name NOT IN ('ann', 'bob') ORDER BY id
SELECT id, CASE WHEN tags IS NULL THEN 0 ELSE size(tags) END AS n FROM users ORDER BY n DESC, id
SELECT user_id, max(ts) - INTERVAL 1 DAY AS day_before, date_sub(max(date(ts)), 7) AS week_before FROM events GROUP BY user_id ORDER BY user_id
SELECT mean(amount), std(amount), variance(amount), kurtosis(amount), bit_and(user_id), bit_or(user_id), count_if(amount < 0) FROM events
SELECT median(amount), percentile_disc(0.5) WITHIN GROUP (ORDER BY amount) FROM events
SELECT approx_percentile(amount, 0.95) FROM events
SELECT zip_with(tags, transform(tags, x -> length(x)), (a, b) -> concat(a, '=', b)) FROM users ORDER BY id
SELECT substring_index(email, '@', 1) AS user, regexp_extract(email, '@(\\w+)\\.', 1) AS dom, length(regexp_replace(email, '[^.]', '')) AS dots FROM users ORDER BY id
SELECT hex(name), md5(name), crc32(name), base64(name) FROM users ORDER BY id
SELECT id % 2 = 0 AS even, count(*) FROM users GROUP BY id % 2 = 0 ORDER BY even
SELECT country, collect_list(name) AS names FROM (SELECT * FROM users ORDER BY id) GROUP BY country ORDER BY country
SELECT user_id, count(*) AS n FROM events GROUP BY user_id HAVING count(*) > (SELECT 1) ORDER BY n
SELECT s.* FROM (SELECT user_id, count(*) AS n FROM events GROUP BY user_id) s JOIN users u ON u.id = s.user_id ORDER BY n DESC, 1
SELECT a.id AS `a.id`, b.id AS `b id` FROM users a JOIN users b ON a.id + 1 = b.id ORDER BY 1
SELECT ts::date AS d, amount::int AS a, '5'::int + 1 AS six FROM events WHERE amount IS NOT NULL ORDER BY ts
SELECT stack(2, 'a', 1, 'b', 2)
SELECT posexplode(split('a,b', ','))
SELECT timestampdiff(MINUTE, min(ts), max(ts)), timestampdiff(MONTH, min(ts), max(ts)) FROM events
SELECT date_part('week', ts), extract(HOUR FROM ts), date_part('quarter', ts), weekofyear(ts) FROM events ORDER BY ts
SELECT current_timestamp() > ts AS past FROM events ORDER BY ts
SELECT name FROM users WHERE email LIKE concat('%', name, '%') ORDER BY name
SELECT id, CASE WHEN age <> 0 THEN 100 / age ELSE 0 END, if(age = 17, NULL, 100 / (age - 17)) FROM users ORDER BY id
SELECT substring(substring(trim(concat(name, email, country)), 2, 9), 1, 3), lpad(substr(upper(concat(name, email)), 1, 4), 6, lower('X')) FROM users ORDER BY id
SELECT count(*) AS n FROM events HAVING count(*) > 3
SELECT amount AS ts, ts AS t FROM events ORDER BY ts, t
SELECT id % 2 AS id, count(*) FROM users GROUP BY id % 2 ORDER BY 1
SELECT kind AS user_id, count(*) FROM events GROUP BY user_id, kind ORDER BY 1, 2
SELECT upper(name) AS name FROM users WHERE name = 'ann'
SELECT name, count(*) OVER () AS c FROM users QUALIFY count(*) OVER () > 1 ORDER BY name
SELECT x.a, x.b FROM (SELECT id AS a, name AS b FROM users) AS x WHERE x.a > 1 ORDER BY x.b DESC
SELECT date(ts) AS day, count(*) AS n, sum(n) OVER (ORDER BY date(ts)) FROM (SELECT ts, 1 AS n FROM events) GROUP BY date(ts), n ORDER BY 1
SELECT u.id, u.tags[0] AS first_tag, u.props['lang'] AS lang FROM users u WHERE size(u.tags) > 0 ORDER BY 1
SELECT tag, count(DISTINCT id) FROM (SELECT id, explode(tags) AS tag FROM users WHERE plan = 'pro') GROUP BY tag ORDER BY tag
SELECT (SELECT name FROM users WHERE id = 1) || '!' AS who, (SELECT max(age) FROM users) - 1 AS older
SELECT name, CASE WHEN EXISTS (SELECT 1 FROM events e WHERE e.user_id = users.id) THEN 'active' ELSE 'idle' END AS state FROM users ORDER BY id
SELECT NOT EXISTS (SELECT 1 FROM users WHERE age > 100) AS none_old
SELECT sum(x) FROM (SELECT amount AS x FROM events UNION ALL SELECT price FROM items)
SELECT to_json(struct(kind, amount)) AS j FROM events ORDER BY ts
SELECT collect_list(struct(kind, amount)) AS evs FROM (SELECT * FROM events ORDER BY ts) WHERE user_id = 1
SELECT a.k, a.v FROM (SELECT explode(map('x', 1, 'y', 2)) AS (k, v)) a ORDER BY a.k
SELECT round(corr(amount, user_id), 6), round(covar_pop(amount, user_id), 6), regr_slope(amount, user_id) FROM events
SELECT ts, date_trunc('quarter', ts), trunc(ts, 'quarter'), last_day(ts), dayofyear(ts), day(ts), minute(ts), second(ts) FROM events ORDER BY ts
SELECT kind, sum(amount) AS amount FROM events GROUP BY kind HAVING sum(amount) > 20 ORDER BY kind
