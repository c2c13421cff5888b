"""The workplace's 27 tools, by the names and parameters of NeMo Gym's `workplace_assistant`.

Searches compare texts as they are, where that one reads calendar, project and customer queries as expressions; dates
are ISO 8601. Complaints are in our words. Each tool takes the state and its arguments by name.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from nemo_cascade.environments.workplace.tables import NOW, Row, State, Table, ToolError, page_of

_LISTS = ("Backlog", "In Progress", "In Review", "Completed")
_BOARDS = ("Back end", "Front end", "Design")
_STATUSES = ("Qualified", "Won", "Lost", "Lead", "Proposal")
_INTERESTS = ("Software", "Hardware", "Services", "Consulting", "Training")
_PLOTTED = (
    "total_visits", "session_duration_seconds", "user_engaged", "visits_direct", "visits_referral",
    "visits_search_engine", "visits_social_media",
)  # fmt: skip
_PLOTS = ("bar", "line", "scatter", "histogram")
_ADDRESS = re.compile(r"[a-zA-Z0-9._%+-]+@[a-zA-Z0-9.-]+\.[a-zA-Z]{2,}")
_EVENT_FIELDS = ("event_name", "participant_email", "event_start", "duration")


def call_tool(state: State, name: str, arguments: Mapping[str, Any]) -> Any:
    """Run a tool; return its result, a complaint as text. A null argument counts as not given."""
    given = {key: value for key, value in arguments.items() if value is not None}
    if wrong := [k for k, v in given.items() if not isinstance(v, str) and k not in ("page", "page_size")]:
        return f"Error: {', '.join(wrong)} must be text"
    try:
        return TOOLS[name](state, **given)
    except ToolError as complaint:
        return str(complaint)
    except (KeyError, TypeError, ValueError) as error:
        return f"Error executing tool {name!r}: {error}"


def _find_address(state: State, name: str = "") -> Any:
    _need(name=name)
    return [address for address in state.addresses if name.lower() in address.lower()]


def _email_field(state: State, email_id: str = "", field: str = "") -> Any:
    return _field(state.emails, email_id, field)


def _search_emails(
    state: State, query: str = "", date_min: str = "", date_max: str = "", page: int = 1, page_size: int = 5
) -> Any:
    words = query.lower().split()

    def holds(row: Row) -> bool:
        text = f"{row['subject']} {row['body']} {row['sender/recipient']}".lower()
        return all(word in text for word in words)

    found = sorted(state.emails.where(holds), key=lambda row: _time(row["sent_datetime"]), reverse=True)
    if date_min:
        found = [row for row in found if _time(row["sent_datetime"]).date() >= _time(date_min).date()]
    if date_max:
        found = [row for row in found if _time(row["sent_datetime"]).date() <= _time(date_max).date()]
    return page_of("emails", found, page, page_size) if found else "No emails found."


def _send_email(state: State, recipient: str = "", subject: str = "", body: str = "") -> str:
    _need(recipient=recipient, subject=subject, body=body)
    if "@" not in recipient or "." not in recipient:
        raise ToolError("The recipient is no email address.")
    email = {"inbox/outbox": "outbox", "sender/recipient": recipient.lower(), "subject": subject}
    state.emails.add({"email_id": state.emails.next_id(0), **email, "sent_datetime": NOW, "body": body})
    return "Email sent successfully."


def _delete_email(state: State, email_id: str = "") -> str:
    return _removed(state.emails, "Email", email_id)


def _forward_email(state: State, email_id: str = "", recipient: str = "") -> str:
    _need(email_id=email_id, recipient=recipient)
    email = _found(state.emails, "Email", email_id)
    _send_email(state, recipient, f"FW: {email['subject']}", str(email["body"] or ""))
    return "Email forwarded successfully."


def _reply_email(state: State, email_id: str = "", body: str = "") -> str:
    _need(email_id=email_id, body=body)
    email = _found(state.emails, "Email", email_id)
    _send_email(state, str(email["sender/recipient"]), f"RE: {email['subject']}", body)
    return "Email replied successfully."


def _event_field(state: State, event_id: str = "", field: str = "") -> Any:
    return _field(state.events, _event_id(event_id), field)


def _search_events(
    state: State, query: str = "", time_min: str = "", time_max: str = "", page: int = 1, page_size: int = 5
) -> Any:
    found = state.events.where(
        lambda row: _within(query, row["event_name"]) or _within(query, row["participant_email"])
    )
    if time_min:
        found = [row for row in found if _time(row["event_start"]) >= _time(time_min)]
    if time_max:
        found = [row for row in found if _time(row["event_start"]) <= _time(time_max)]
    found = sorted(found, key=lambda row: _time(row["event_start"]), reverse=True)
    return page_of("events", found, page, page_size) if found else "No events found."


def _create_event(
    state: State, event_name: str = "", participant_email: str = "", event_start: str = "", duration: str = ""
) -> str:
    _need(event_name=event_name, participant_email=participant_email, event_start=event_start, duration=duration)
    _event_value("event_start", event_start)
    _event_value("duration", duration)
    name = state.events.next_id(8)
    rest = {"participant_email": participant_email.lower(), "event_start": event_start, "duration": duration}
    state.events.add({"event_id": name, "event_name": event_name, **rest})
    return name


def _delete_event(state: State, event_id: str = "") -> str:
    return _removed(state.events, "Event", _event_id(event_id))


def _update_event(state: State, event_id: str = "", field: str = "", new_value: str = "") -> str:
    _need(event_id=event_id, field=field, new_value=new_value)
    _one_of("Field", field, _EVENT_FIELDS)
    value = new_value.lower() if field == "participant_email" else _event_value(field, new_value)
    return _changed(state.events, "Event", _event_id(event_id), field, value)


def _visitor(state: State, visitor_id: str = "") -> Any:
    _need(visitor_id=visitor_id)
    rows = state.visits.where(lambda row: row["visitor_id"] == visitor_id)
    return [{**row, "user_engaged": row["user_engaged"] == "True"} for row in rows] or "Visitor not found."


def _create_plot(
    state: State, time_min: str = "", time_max: str = "", value_to_plot: str = "", plot_type: str = ""
) -> str:
    _need(time_min=time_min, time_max=time_max)
    _one_of("Value to plot", value_to_plot, _PLOTTED)
    _one_of("Plot type", plot_type, _PLOTS)
    state.plots.append(f"plots/{time_min}_{time_max}_{value_to_plot}_{plot_type}.png")
    return state.plots[-1]


def _visits(state: State, time_min: str, time_max: str) -> dict[str, list[Row]]:
    """Return the visits of each day in a span, days in order."""
    days: defaultdict[str, list[Row]] = defaultdict(list)
    for row in state.visits.rows:
        day = str(row["date_of_visit"])
        if (not time_min or day >= time_min) and (not time_max or day <= time_max):
            days[day].append(row)
    return dict(sorted(days.items()))


def _total_visits(state: State, time_min: str = "", time_max: str = "") -> Any:
    return {day: len(rows) for day, rows in _visits(state, time_min, time_max).items()}


def _engaged_users(state: State, time_min: str = "", time_max: str = "") -> Any:
    days = _visits(state, time_min, time_max)
    return {day: Counter(row["user_engaged"] for row in rows)["True"] for day, rows in days.items()}


def _traffic_source(state: State, time_min: str = "", time_max: str = "", traffic_source: str = "") -> Any:
    days = _visits(state, time_min, time_max)
    return {
        day: sum(not traffic_source or row["traffic_source"] == traffic_source for row in rows)
        for day, rows in days.items()
    }


def _session_duration(state: State, time_min: str = "", time_max: str = "") -> Any:
    days = _visits(state, time_min, time_max)
    return {day: sum(float(row["session_duration_seconds"] or 0) for row in r) / len(r) for day, r in days.items()}


def _task_field(state: State, task_id: str = "", field: str = "") -> Any:
    return _field(state.tasks, task_id, field)


def _search_tasks(
    state: State,
    task_name: str = "",
    assigned_to_email: str = "",
    list_name: str = "",
    due_date: str = "",
    board: str = "",
) -> Any:
    if not any((task_name, assigned_to_email, list_name, due_date, board)):
        raise ToolError("No search parameters provided.")
    if assigned_to_email and not _ADDRESS.fullmatch(assigned_to_email):
        raise ToolError("assigned_to_email is no email address.")
    sought = {"task_name": task_name, "list_name": list_name, "due_date": due_date, "board": board}
    owner = assigned_to_email.lower()
    return state.tasks.where(
        lambda row: (
            all(_within(text, row[column]) for column, text in sought.items())
            and (not owner or str(row["assigned_to_email"]).lower() == owner)
        )
    )


def _create_task(
    state: State,
    task_name: str = "",
    assigned_to_email: str = "",
    list_name: str = "",
    due_date: str = "",
    board: str = "",
) -> str:
    rest = {"assigned_to_email": assigned_to_email.lower(), "list_name": list_name, "due_date": due_date}
    row: Row = {"task_name": task_name, **rest, "board": board}
    _need(**row)
    for column in ("assigned_to_email", "list_name", "board"):
        _task_value(state, column, str(row[column]))
    name = state.tasks.next_id(8)
    state.tasks.add({"task_id": name, **row})
    return name


def _delete_task(state: State, task_id: str = "") -> str:
    return _removed(state.tasks, "Task", task_id)


def _update_task(state: State, task_id: str = "", field: str = "", new_value: str = "") -> str:
    _need(task_id=task_id, field=field, new_value=new_value)
    value = new_value.lower() if field == "assigned_to_email" else new_value
    _task_value(state, field, value)
    return _changed(state.tasks, "Task", task_id, field, value)


def _search_customers(state: State, page: int = 1, page_size: int = 5, **sought: str) -> Any:
    texts = ("customer_name", "customer_email", "product_interest", "status", "assigned_to_email")
    bounds = [f"{column}_{end}" for column in ("last_contact_date", "follow_up_by") for end in ("min", "max")]
    if unknown := sought.keys() - {*texts, *bounds}:
        raise ToolError(f"There is no parameter {min(unknown)}.")
    if not any(sought.values()):
        raise ToolError("No search parameters provided; give at least one.")

    def holds(row: Row) -> bool:
        if not all(_within(sought.get(column, ""), row[column]) for column in texts):
            return False
        for bound in bounds:
            column, _, end = bound.rpartition("_")
            if limit := sought.get(bound):
                value = row[column]
                if value is None or (value < limit if end == "min" else value > limit):
                    return False
        return True

    found = state.customers.where(holds)
    return page_of("customers", found, page, page_size) if found else "No customers found."


def _update_customer(state: State, customer_id: str = "", field: str = "", new_value: str = "") -> str:
    _need(customer_id=customer_id, field=field, new_value=new_value)
    if field == "status":
        _one_of("Status", new_value, _STATUSES)
    if field == "product_interest":
        _one_of("Product interest", new_value, _INTERESTS)
    value = new_value.lower() if field in ("customer_email", "assigned_to_email") else new_value
    return _changed(state.customers, "Customer", customer_id, field, value)


def _add_customer(state: State, notes: str = "", **given: str) -> str:
    if unknown := given.keys() - set(state.customers.columns) | given.keys() & {"customer_id"}:
        raise ToolError(f"There is no parameter {min(unknown)}.")
    _need(**{name: given.get(name, "") for name in ("customer_name", "assigned_to_email", "status")})
    name = state.customers.next_id(8)
    folded = {k: v.lower() if k in ("customer_email", "assigned_to_email") else v for k, v in given.items()}
    state.customers.add({"customer_id": name, "notes": notes, **folded})
    return name


def _delete_customer(state: State, customer_id: str = "") -> str:
    return _removed(state.customers, "Customer", customer_id)


def _need(**given: Any) -> None:
    if missing := [name for name, value in given.items() if not value]:
        raise ToolError(f"Not provided: {', '.join(missing)}.")


def _one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ToolError(f"{what} not valid. Choose from: {', '.join(known)}.")


def _found(table: Table, what: str, name: str) -> Row:
    row = table.find(name)
    if row is None:
        raise ToolError(f"{what} not found.")
    return row


def _field(table: Table, name: str, field: str) -> Any:
    _need(**{table.key: name, "field": field})
    row = _found(table, table.key.removesuffix("_id").capitalize(), name)
    _one_of("Field", field, tuple(table.columns))
    return {field: row[field]}


def _changed(table: Table, what: str, name: str, field: str, value: str) -> str:
    _found(table, what, name)
    _one_of("Field", field, tuple(table.columns))
    table.change(name, field, value)
    return f"{what} updated successfully."


def _removed(table: Table, what: str, name: str) -> str:
    _need(**{table.key: name})
    if not table.remove(name):
        raise ToolError(f"{what} not found.")
    return f"{what} deleted successfully."


def _within(sought: str, value: str | None) -> bool:
    return not sought or (value is not None and sought.lower() in value.lower())


def _time(text: str | None) -> datetime:
    try:
        return datetime.fromisoformat(str(text)).replace(tzinfo=None)
    except ValueError as error:
        raise ToolError(f"{text!r} is no time. Write YYYY-MM-DD HH:MM:SS.") from error


def _event_id(name: str) -> str:
    _need(event_id=name)
    if len(name) != 8 or not name.isdigit():
        raise ToolError("An event's id has eight digits.")
    return name


def _event_value(field: str, value: str) -> str:
    if field == "event_start":
        _time(value)
    if field == "duration" and (not value.strip().isdigit() or int(value) < 1):
        raise ToolError("A duration is a positive number of minutes.")
    return value


def _task_value(state: State, field: str, value: str) -> None:
    if field == "board":
        _one_of("Board", value, _BOARDS)
    if field == "list_name":
        _one_of("List", value, _LISTS)
    if field == "assigned_to_email" and value not in {str(r["assigned_to_email"]).lower() for r in state.tasks.rows}:
        raise ToolError("The assignee is no member of the team.")


TOOLS: Mapping[str, Callable[..., Any]] = {
    "company_directory_find_email_address": _find_address,
    "email_get_email_information_by_id": _email_field,
    "email_search_emails": _search_emails,
    "email_send_email": _send_email,
    "email_delete_email": _delete_email,
    "email_forward_email": _forward_email,
    "email_reply_email": _reply_email,
    "calendar_get_event_information_by_id": _event_field,
    "calendar_search_events": _search_events,
    "calendar_create_event": _create_event,
    "calendar_delete_event": _delete_event,
    "calendar_update_event": _update_event,
    "analytics_get_visitor_information_by_id": _visitor,
    "analytics_create_plot": _create_plot,
    "analytics_total_visits_count": _total_visits,
    "analytics_engaged_users_count": _engaged_users,
    "analytics_traffic_source_count": _traffic_source,
    "analytics_get_average_session_duration": _session_duration,
    "project_management_get_task_information_by_id": _task_field,
    "project_management_search_tasks": _search_tasks,
    "project_management_create_task": _create_task,
    "project_management_delete_task": _delete_task,
    "project_management_update_task": _update_task,
    "customer_relationship_manager_search_customers": _search_customers,
    "customer_relationship_manager_update_customer": _update_customer,
    "customer_relationship_manager_add_customer": _add_customer,
    "customer_relationship_manager_delete_customer": _delete_customer,
}
"""Name -> tool."""
