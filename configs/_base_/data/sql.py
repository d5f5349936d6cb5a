"""79,000 questions about tables with the SQL that answers them: from the hub."""

data = dict(sources=[dict(path="b-mc2/sql-create-context", format="sql")])
probe = dict(
    system="You translate questions about the given database tables into SQL queries that answer them.",
    prompts=["CREATE TABLE staff (name VARCHAR, age INTEGER)\nHow many are older than 56?"],
    max_new_tokens=128,
)
