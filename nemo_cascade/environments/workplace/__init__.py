"""A workplace: mail, calendar, web analytics, projects and customers in five tables, behind 27 tools."""
