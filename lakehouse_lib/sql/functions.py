# ruff: noqa: E501 - one line per signature
"""The supported functions of Spark SQL and their DuckDB equivalents, one signature a line; see `signatures`.

A function without a line is rejected.
"""

from __future__ import annotations

from lakehouse_lib.sql import signatures

_SCALAR = r"""
upper|ucase(string) string = CASE WHEN strlen({0}) = length({0}) THEN upper({0}) ELSE spark_upper({0}) END
lower|lcase(string) string = CASE WHEN strlen({0}) = length({0}) THEN lower({0}) ELSE spark_lower({0}) END
initcap(string) string = spark_initcap({0})
length|len|char_length|character_length(string) int = CAST(length({0}) AS INTEGER)
length|len|octet_length(binary) int = CAST(octet_length({0}) AS INTEGER)
octet_length(string) int = CAST(strlen({0}) AS INTEGER)
bit_length(string) int = CAST(8 * strlen({0}) AS INTEGER)
trim|btrim(string) string = trim({0}, ' ')
ltrim(string) string = ltrim({0}, ' ')
rtrim(string) string = rtrim({0}, ' ')
btrim(string, string) string = trim({0}, {1})
ltrim(string, string) string = ltrim({1}, {0})
rtrim(string, string) string = rtrim({1}, {0})
substring|substr(string, int) string = spark_substring({0}, {1}, 2147483647)
substring|substr(string, int, int) string = spark_substring({0}, {1}, {2})
left(string, int) string = left({0}, spark_natural({1}))
right(string, int) string = right({0}, spark_natural({1}))
lpad(string, int) string = spark_lpad({0}, {1}, ' ')
lpad(string, int, string) string = spark_lpad({0}, {1}, {2})
rpad(string, int) string = spark_rpad({0}, {1}, ' ')
rpad(string, int, string) string = spark_rpad({0}, {1}, {2})
instr(string, string) int = CAST(instr({0}, {1}) AS INTEGER)
locate|position(string, string) int = CAST(instr({1}, {0}) AS INTEGER)
locate|position(string, string, int) int = spark_locate({0}, {1}, {2})
repeat(string, int) string = repeat({0}, spark_natural({1}))
space(int) string = repeat(' ', spark_natural({0}))
replace(string, string) string = spark_replace({0}, {1}, '')
replace(string, string, string) string = spark_replace({0}, {1}, {2})
reverse(string) string = array_to_string(list_reverse(string_split({0}, '')), '')
ascii(string) int = CASE WHEN {0} = '' THEN 0 ELSE unicode({0}) END
chr|char(bigint) string = CASE WHEN {0} < 0 THEN '' ELSE chr(CAST({0} % 256 AS INTEGER)) END
startswith(string, string) boolean = starts_with({0}, {1})
endswith(string, string) boolean = ends_with({0}, {1})
contains(string, string) boolean = contains({0}, {1})
concat_ws(string!, any*) string = special
concat(any*) string = special
overlay(string, string, int) string = spark_overlay({0}, {1}, {2}, -1)
overlay(string, string, int, int) string = spark_overlay({0}, {1}, {2}, {3})
translate(string, string, string) string = spark_translate({0}, {1}, {2})
soundex(string) string = spark_soundex({0})
levenshtein(string, string) int = spark_levenshtein({0}, {1})
substring_index(string, string, int) string = spark_substring_index({0}, {1}, {2})
split_part(string, string, int) string = spark_split_part({0}, {1}, {2})
find_in_set(string, string) int = CASE WHEN {0} IS NULL OR {1} IS NULL THEN NULL WHEN contains({0}, ',') THEN 0 ELSE CAST(coalesce(list_position(string_split({1}, ','), {0}), 0) AS INTEGER) END
split(string, string!) array<string> = spark_split({0}, {1}, -1)
split(string, string!, int) array<string> = spark_split({0}, {1}, {2})
rlike|regexp|regexp_like(string, string) boolean = spark_rlike({0}, {1})
regexp_replace(string, string, string) string = spark_regexp_replace({0}, {1}, {2}, 1)
regexp_replace(string, string, string, int!) string = CASE WHEN {3} < 1 THEN error('regexp_replace begins at position 1 or later') ELSE spark_regexp_replace({0}, {1}, {2}, {3}) END
regexp_extract(string, string) string = spark_regexp_extract({0}, {1}, 1)
regexp_extract(string, string, int) string = spark_regexp_extract({0}, {1}, {2})
regexp_extract_all(string, string) array<string> = spark_regexp_extract_all({0}, {1}, 1)
regexp_extract_all(string, string, int) array<string> = spark_regexp_extract_all({0}, {1}, {2})
regexp_count(string, string) int = spark_regexp_count({0}, {1})
regexp_substr(string, string) string = spark_regexp_substr({0}, {1})
regexp_instr(string, string) int = spark_regexp_instr({0}, {1})
like(string, string) boolean = like_escape({0}, {1}, '\')
ilike(string, string) boolean = ilike_escape({0}, {1}, '\')
format_number(N, int) string = spark_format_number(CAST({0} AS VARCHAR), {1})
base64(binary) string = base64({0})
unbase64(string) binary = from_base64({0})
hex(bigint) string = CASE WHEN {0} >= 0 THEN upper(to_hex({0})) ELSE upper(to_hex(18446744073709551616::HUGEINT + {0})) END
hex(string) string = hex({0})
hex(binary) string = hex({0})
unhex(string) binary = CASE WHEN regexp_full_match({0}, '[0-9a-fA-F]*') THEN unhex(CASE WHEN length({0}) % 2 = 1 THEN '0' || {0} ELSE {0} END) END
bin(bigint) string = CASE WHEN {0} >= 0 THEN bin({0}) ELSE bin(18446744073709551616::HUGEINT + {0}) END
conv(string, int, int) string = spark_conv({0}, {1}, {2})
md5(binary) string = md5({0})
sha|sha1(binary) string = sha1({0})
sha2(binary, int) string = spark_sha2({0}, {1})
crc32(binary) bigint = spark_crc32({0})
url_encode(string) string = spark_url_encode({0})
url_decode(string) string = spark_url_decode({0})
parse_url(string, string) string = spark_parse_url({0}, {1}, '')
parse_url(string, string, string) string = spark_parse_url({0}, {1}, {2})
get_json_object(string, string) string = spark_json({0}, {1})
json_array_length(string) int = spark_json_length({0})
json_object_keys(string) array<string> = spark_json_keys({0})
encode(string, string!) binary = special
decode(binary, string!) string = special

abs(N) N = abs({0})
negative(N) N = (-{0})
positive(N) N = {0}
ceil|ceiling(double) bigint = CAST(ceil({0}) AS BIGINT)
ceil|ceiling(bigint) bigint = {0}
ceil|ceiling(decimal) special0 = ceil({0})
floor(double) bigint = CAST(floor({0}) AS BIGINT)
floor(bigint) bigint = {0}
floor(decimal) special0 = floor({0})
round(N) special = special
round(N, int!) special = special
bround(N) special = special
bround(N, int!) special = special
rint(double) double = CASE WHEN isfinite({0}) THEN spark_round({0}, 0, true) ELSE {0} END
sqrt(double) double = CASE WHEN {0} < 0 THEN 'nan'::DOUBLE ELSE sqrt({0}) END
cbrt(double) double = cbrt({0})
exp(double) double = exp({0})
expm1(double) double = CASE WHEN abs({0}) < 0.001 THEN {0} + {0} * {0} / 2 + {0} * {0} * {0} / 6 + {0} * {0} * {0} * {0} / 24 ELSE exp({0}) - 1 END
ln|log(double) double = CASE WHEN {0} > 0 THEN ln({0}) END
log(double, double) double = CASE WHEN {0} > 0 AND {1} > 0 THEN ln({1}) / ln({0}) END
log10(double) double = CASE WHEN {0} > 0 THEN log10({0}) END
log2(double) double = CASE WHEN {0} > 0 THEN log2({0}) END
log1p(double) double = CASE WHEN {0} > -1 THEN ln(1 + {0}) END
pow|power(double, double) double = CASE WHEN isnan({1}) AND {0} = 1 THEN {1} WHEN abs({0}) = 1 AND isinf({1}) THEN 'nan'::DOUBLE ELSE pow({0}, {1}) END
sign|signum(double) double = CASE WHEN isnan({0}) THEN {0} ELSE CAST(sign({0}) AS DOUBLE) END
sin(double) double = CASE WHEN NOT isfinite({0}) THEN 'nan'::DOUBLE ELSE sin({0}) END
cos(double) double = CASE WHEN NOT isfinite({0}) THEN 'nan'::DOUBLE ELSE cos({0}) END
tan(double) double = CASE WHEN NOT isfinite({0}) THEN 'nan'::DOUBLE ELSE tan({0}) END
cot(double) double = CASE WHEN NOT isfinite({0}) THEN 'nan'::DOUBLE ELSE 1 / tan({0}) END
asin(double) double = CASE WHEN abs({0}) > 1 THEN 'nan'::DOUBLE ELSE asin({0}) END
acos(double) double = CASE WHEN abs({0}) > 1 THEN 'nan'::DOUBLE ELSE acos({0}) END
atan(double) double = atan({0})
atan2(double, double) double = atan2({0}, {1})
sinh(double) double = sinh({0})
cosh(double) double = cosh({0})
tanh(double) double = tanh({0})
hypot(double, double) double = CASE WHEN {0} = 0 THEN abs({1}) WHEN {1} = 0 THEN abs({0}) WHEN greatest(abs({0}), abs({1})) > 1e150 THEN error('hypot of numbers this large is not supported') ELSE sqrt({0} * {0} + {1} * {1}) END
degrees(double) double = degrees({0})
radians(double) double = radians({0})
pi() double = pi()
e() double = exp(1.0::DOUBLE)
factorial(int) bigint = CASE WHEN {0} BETWEEN 0 AND 20 THEN CAST(factorial({0}) AS BIGINT) END
pmod(N, N) N = special
mod(N, N) N = special
greatest(S, S*) S = greatest({*})
least(S, S*) S = special
shiftleft(int, int) int = spark_shiftleft({0}, {1})
shiftright(int, int) int = ({0} >> ({1} & 31))
shiftright(bigint, int) bigint = ({0} >> ({1} & 63))
bit_count(bigint) int = CAST(bit_count({0}) AS INTEGER)
bit_count(boolean) int = CAST({0} AS INTEGER)
bit_get|getbit(bigint, int) tinyint = CASE WHEN {1} BETWEEN 0 AND 63 THEN CAST(({0} >> {1}) & 1 AS TINYINT) ELSE error('There is no bit ' || {1}) END
width_bucket(double, double, double, bigint) bigint = spark_width_bucket({0}, {1}, {2}, {3})
isnan(double) boolean = coalesce(isnan({0}), false)
nanvl(double, double) double = CASE WHEN isnan({0}) THEN {1} ELSE {0} END
rand|random() double = random()
rand|random(int!) double = random()

coalesce(T, T*) T = coalesce({*})
nvl|ifnull(T, T) T = coalesce({0}, {1})
nvl2(any, T, T) T = CASE WHEN {0} IS NOT NULL THEN {1} ELSE {2} END
if(boolean, T, T) T = CASE WHEN {0} THEN {1} ELSE {2} END
nullif(S, S) special = special
nullifzero(N) N = nullif({0}, 0)
zeroifnull(N) N = coalesce({0}, 0)
isnull(any) boolean = ({0} IS NULL)
isnotnull(any) boolean = ({0} IS NOT NULL)
equal_null(S, S) boolean = ({0} IS NOT DISTINCT FROM {1})
typeof(any) string = special

year(date) int = CAST(year({0}) AS INTEGER)
quarter(date) int = CAST(quarter({0}) AS INTEGER)
month(date) int = CAST(month({0}) AS INTEGER)
day|dayofmonth(date) int = CAST(day({0}) AS INTEGER)
dayofweek(date) int = CAST(dayofweek({0}) + 1 AS INTEGER)
weekday(date) int = CAST(isodow({0}) - 1 AS INTEGER)
dayofyear(date) int = CAST(dayofyear({0}) AS INTEGER)
weekofyear(date) int = CAST(weekofyear({0}) AS INTEGER)
dayname(date) string = left(dayname({0}), 3)
monthname(date) string = left(monthname({0}), 3)
hour(timestamp) int = CAST(hour({0}) AS INTEGER)
minute(timestamp) int = CAST(minute({0}) AS INTEGER)
second(timestamp) int = CAST(second({0}) AS INTEGER)
date_add|dateadd(date, int) date = ({0} + {1})
date_sub(date, int) date = ({0} - {1})
datediff|date_diff(date, date) int = CAST({0} - {1} AS INTEGER)
add_months(date, int) date = CAST({0} + to_months({1}) AS DATE)
months_between(timestamp, timestamp) double = spark_months_between({0}, {1}, true)
months_between(timestamp, timestamp, boolean) double = spark_months_between({0}, {1}, {2})
last_day(date) date = last_day({0})
next_day(date, string) date = spark_next_day({0}, {1})
trunc(date, string!) date = special
date_trunc(string!, timestamp) timestamp = special
make_date(int, int, int) date = make_date({0}, {1}, {2})
make_timestamp(int, int, int, int, int, decimal) timestamp = make_timestamp({0}, {1}, {2}, {3}, {4}, CAST({5} AS DOUBLE))
to_date(date) date = {0}
to_date(string, string) date = CAST(spark_must(spark_parsed({0}, {1}), {0}, {1}) AS DATE)
try_to_date(string, string) date = CAST(spark_parsed({0}, {1}) AS DATE)
to_timestamp(timestamp) timestamp = {0}
to_timestamp(string, string) timestamp = spark_must(spark_parsed({0}, {1}), {0}, {1})
try_to_timestamp(string) timestamp = spark_timestamp({0})
try_to_timestamp(string, string) timestamp = spark_parsed({0}, {1})
date(any) date = special
unix_timestamp|to_unix_timestamp(timestamp) bigint = CAST(trunc(epoch_us({0})::DECIMAL(20,0) / 1000000) AS BIGINT)
unix_timestamp|to_unix_timestamp(string) bigint = CAST(epoch(spark_must(spark_parsed({0}, 'yyyy-MM-dd HH:mm:ss'), {0}, 'yyyy-MM-dd HH:mm:ss')) AS BIGINT)
unix_timestamp|to_unix_timestamp(string, string) bigint = CAST(floor(epoch(spark_must(spark_parsed({0}, {1}), {0}, {1}))) AS BIGINT)
unix_timestamp() bigint = CAST(floor(epoch(current_timestamp)) AS BIGINT)
from_unixtime(bigint) string = CAST(make_timestamp({0} * 1000000) AS VARCHAR)
from_unixtime(bigint, string) string = spark_date_format(make_timestamp({0} * 1000000), {1})
unix_seconds(timestamp) bigint = CAST(floor(epoch_us({0})::DECIMAL(20,0) / 1000000) AS BIGINT)
unix_millis(timestamp) bigint = CAST(floor(epoch_us({0})::DECIMAL(20,0) / 1000) AS BIGINT)
unix_micros(timestamp) bigint = epoch_us({0})
unix_date(date) int = CAST({0} - DATE '1970-01-01' AS INTEGER)
date_from_unix_date(int) date = (DATE '1970-01-01' + {0})
timestamp_seconds(bigint) timestamp = make_timestamp({0} * 1000000)
timestamp_millis(bigint) timestamp = make_timestamp({0} * 1000)
timestamp_micros(bigint) timestamp = make_timestamp({0})
date_format(timestamp, string) string = spark_date_format({0}, {1})
from_utc_timestamp(timestamp, string) timestamp = spark_from_utc({0}, {1})
to_utc_timestamp(timestamp, string) timestamp = spark_to_utc({0}, {1})
current_date|curdate() date = CAST(current_timestamp AS TIMESTAMP)::DATE
current_timestamp|now|localtimestamp() timestamp = CAST(current_timestamp AS TIMESTAMP)
current_timezone() string = 'UTC'

array(T*) array<T> = [{*}]
size|cardinality(array<T>) int = CAST(len({0}) AS INTEGER)
size|cardinality(map<K,V>) int = CAST(cardinality({0}) AS INTEGER)
array_size(array<T>) int = CAST(len({0}) AS INTEGER)
array_contains(array<T>, T) boolean = CASE WHEN {0} IS NULL OR {1} IS NULL THEN NULL WHEN list_contains({0}, {1}) THEN true WHEN len(list_filter({0}, lambda e: e IS NULL)) > 0 THEN NULL ELSE false END
array_position(array<T>, T) bigint = CASE WHEN {0} IS NULL OR {1} IS NULL THEN NULL ELSE CAST(coalesce(list_position({0}, {1}), 0) AS BIGINT) END
array_distinct(array<T>) array<T> = spark_distinct({0})
array_union(array<T>, array<T>) array<T> = CASE WHEN {0} IS NOT NULL AND {1} IS NOT NULL THEN spark_distinct(list_concat({0}, {1})) END
array_intersect(array<T>, array<T>) array<T> = CASE WHEN {0} IS NOT NULL AND {1} IS NOT NULL THEN spark_distinct(list_filter({0}, lambda e: spark_has({1}, e))) END
array_except(array<T>, array<T>) array<T> = CASE WHEN {0} IS NOT NULL AND {1} IS NOT NULL THEN spark_distinct(list_filter({0}, lambda e: NOT spark_has({1}, e))) END
arrays_overlap(array<T>, array<T>) boolean = CASE WHEN {0} IS NULL OR {1} IS NULL THEN NULL WHEN len(list_filter({0}, lambda e: e IS NOT NULL AND list_contains({1}, e))) > 0 THEN true WHEN len({0}) > 0 AND len({1}) > 0 AND (spark_has({0}, NULL) OR spark_has({1}, NULL)) THEN NULL ELSE false END
array_remove(array<T>, T) array<T> = CASE WHEN {1} IS NOT NULL THEN list_filter({0}, lambda e: e IS DISTINCT FROM {1}) END
array_append(array<T>, T) array<T> = CASE WHEN {0} IS NOT NULL THEN list_concat({0}, [{1}]) END
array_prepend(array<T>, T) array<T> = CASE WHEN {0} IS NOT NULL THEN list_concat([{1}], {0}) END
array_compact(array<T>) array<T> = list_filter({0}, lambda e: e IS NOT NULL)
array_repeat(T, int) array<T> = CASE WHEN {1} IS NOT NULL THEN list_transform(range(spark_natural({1})), lambda e: {0}) END
array_join(array<string>, string) string = spark_join(list_filter({0}, lambda e: e IS NOT NULL), {1})
array_join(array<string>, string, string) string = CASE WHEN {2} IS NOT NULL THEN spark_join(list_transform({0}, lambda e: coalesce(e, {2})), {1}) END
array_max(array<S>) S = list_last(list_sort(list_filter({0}, lambda e: e IS NOT NULL), 'ASC', 'NULLS LAST'))
array_min(array<S>) S = list_first(list_sort(list_filter({0}, lambda e: e IS NOT NULL), 'ASC', 'NULLS LAST'))
array_sort(array<S>) array<S> = list_sort({0}, 'ASC', 'NULLS LAST')
sort_array(array<S>) array<S> = list_sort({0}, 'ASC', 'NULLS FIRST')
sort_array(array<S>, boolean!) array<S> = special
reverse(array<T>) array<T> = list_reverse({0})
flatten(array<array<T>>) array<T> = CASE WHEN NOT spark_has({0}, NULL) THEN flatten({0}) END
slice(array<T>, int, int) array<T> = spark_slice({0}, {1}, {2})
element_at(array<T>, int) T = spark_element({0}, {1})
element_at(map<K,V>, K) V = CASE WHEN {1} IS NOT NULL THEN {0}[{1}] END
try_element_at(array<T>, int) T = CASE WHEN {1} = 0 OR {1} = -2147483648 THEN error('Indexes begin at 1') ELSE {0}[{1}] END
try_element_at(map<K,V>, K) V = CASE WHEN {1} IS NOT NULL THEN {0}[{1}] END
get(array<T>, int) T = CASE WHEN {1} >= 0 THEN {0}[{1} + 1] END
sequence(int, int) array<int> = CAST(spark_sequence({0}, {1}, CASE WHEN {0} <= {1} THEN 1 ELSE -1 END) AS INTEGER[])
sequence(int, int, int) array<int> = CAST(spark_sequence({0}, {1}, {2}) AS INTEGER[])
sequence(bigint, bigint) array<bigint> = spark_sequence({0}, {1}, CASE WHEN {0} <= {1} THEN 1 ELSE -1 END)
sequence(bigint, bigint, bigint) array<bigint> = spark_sequence({0}, {1}, {2})
sequence(date, date) array<date> = list_transform(spark_sequence(0, {1} - {0}, CASE WHEN {1} >= {0} THEN 1 ELSE -1 END), lambda e: {0} + CAST(e AS INTEGER))
arrays_zip(any*) special = special

map(any*) special = special
map_from_arrays(array<K>, array<V>) map<K,V> = CASE WHEN {0} IS NOT NULL AND {1} IS NOT NULL THEN CASE WHEN len({0}) = len({1}) THEN map({0}, {1}) ELSE error('The arrays of map_from_arrays differ in size') END END
map_from_entries(any) special = special
map_keys(map<K,V>) array<K> = map_keys({0})
map_values(map<K,V>) array<V> = map_values({0})
map_entries(map<K,V>) special = special
map_contains_key(map<K,V>, K) boolean = CASE WHEN {1} IS NOT NULL THEN list_contains(map_keys({0}), {1}) END
map_concat(map<K,V>, map<K,V>*) map<K,V> = special
str_to_map(string) map<string,string> = spark_to_map({0}, ',', ':')
str_to_map(string, string!) map<string,string> = spark_to_map({0}, {1}, ':')
str_to_map(string, string!, string!) map<string,string> = spark_to_map({0}, {1}, {2})
"""

_AGGREGATE = r"""
count(any, any*) bigint = special
count_if(boolean) bigint = CAST(count(#CASE WHEN {0} THEN 1 END)@ AS BIGINT)
approx_count_distinct(S) bigint = count(DISTINCT {0})@
sum(bigint) bigint = CAST(sum(#{0})@ AS BIGINT)
sum(decimal) special = special
sum(double) double = sum(#{0})@
avg|mean(bigint) double = avg(#CAST({0} AS DOUBLE))@
avg|mean(decimal) special = special
avg|mean(double) double = avg(#{0})@
min(S) S = min({0})@
max(S) S = max({0})@
first|first_value|any_value(T) T = first({0})@
last|last_value(T) T = last({0})@
first|first_value|any_value(T, boolean!) T = special
last|last_value(T, boolean!) T = special
max_by(T, S) T = arg_max_null({0}, {1})@
min_by(T, S) T = arg_min_null({0}, {1})@
collect_list|array_agg(T) array<T> = coalesce(list(#{0})@?({0} IS NOT NULL), [])
collect_set(T) array<T> = coalesce(list(DISTINCT {0})@?({0} IS NOT NULL), [])
stddev|stddev_samp|std(double) double = stddev_samp(#{0})@
stddev_pop(double) double = stddev_pop(#{0})@
variance|var_samp(double) double = var_samp(#{0})@
var_pop(double) double = var_pop(#{0})@
skewness(double) double = spark_skewness(list({0})@)
kurtosis(double) double = spark_kurtosis(list({0})@)
corr(double, double) double = corr({0}, {1})@
covar_samp(double, double) double = covar_samp({0}, {1})@
covar_pop(double, double) double = covar_pop({0}, {1})@
regr_count(double, double) bigint = CAST(regr_count({0}, {1})@ AS BIGINT)
regr_slope(double, double) double = regr_slope({0}, {1})@
regr_r2(double, double) double = regr_r2({0}, {1})@
regr_avgx(double, double) double = regr_avgx({0}, {1})@
regr_avgy(double, double) double = regr_avgy({0}, {1})@
median(double) double = quantile_cont({0}, 0.5)@
percentile(double, double!) double = quantile_cont({0}, {1})@
percentile(double, array<double>!) array<double> = quantile_cont({0}, {1})@
percentile_approx|approx_percentile(N, double!) N = spark_nth(list({0} ORDER BY {0})@?({0} IS NOT NULL), {1})
percentile_approx|approx_percentile(N, double!, int!) N = CASE WHEN {2} < 1000 THEN error('An accuracy below 1000 is not supported') ELSE spark_nth(list({0} ORDER BY {0})@?({0} IS NOT NULL), {1}) END
percentile_approx|approx_percentile(N, array<double>!) array<N> = spark_nths(list({0} ORDER BY {0})@?({0} IS NOT NULL), {1})
percentile_approx|approx_percentile(N, array<double>!, int!) array<N> = CASE WHEN {2} < 1000 THEN error('An accuracy below 1000 is not supported') ELSE spark_nths(list({0} ORDER BY {0})@?({0} IS NOT NULL), {1}) END
mode(S) S = mode({0})@
bool_and|every(boolean) boolean = bool_and({0})@
bool_or|any|some(boolean) boolean = bool_or({0})@
bit_and(I) I = bit_and({0})@
bit_or(I) I = bit_or({0})@
bit_xor(I) I = bit_xor({0})@
"""

_WINDOW = r"""
row_number() int = CAST(row_number()@ AS INTEGER)
rank() int = CAST(rank()@ AS INTEGER)
dense_rank() int = CAST(dense_rank()@ AS INTEGER)
percent_rank() double = percent_rank()@
cume_dist() double = cume_dist()@
ntile(int!) int = CAST(ntile({0})@ AS INTEGER)
lag(T) T = lag({0})@
lag(T, int!) T = lag({0}, {1})@
lag(T, int!, T) T = lag({0}, {1}, {2})@
lead(T) T = lead({0})@
lead(T, int!) T = lead({0}, {1})@
lead(T, int!, T) T = lead({0}, {1}, {2})@
first_value|first|any_value(T) T = first_value({0})@
last_value|last(T) T = last_value({0})@
nth_value(T, int!) T = nth_value({0}, {1})@
"""

SCALARS = signatures.parsed(_SCALAR)
AGGREGATES = signatures.parsed(_AGGREGATE)
WINDOWS = signatures.parsed(_WINDOW)
"""Functions for use with OVER, where first and last refer to the frame."""
