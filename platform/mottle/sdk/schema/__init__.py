"""Published shapes: the job file, and the fate of each field of Ray's config classes. `python -m mottle.sdk.schema` writes their pages."""

from mottle.sdk.schema.job import FILES_TAG as FILES_TAG
from mottle.sdk.schema.job import REFERENCE_TAG as REFERENCE_TAG
from mottle.sdk.schema.job import Files as Files
from mottle.sdk.schema.job import Group as Group
from mottle.sdk.schema.job import Health as Health
from mottle.sdk.schema.job import Job as Job
from mottle.sdk.schema.job import schema_text as schema_text
from mottle.sdk.schema.job import shown as shown
from mottle.sdk.schema.references import resolve as resolve
from mottle.storage.document import Document as Document
from mottle.storage.document import DocumentError as DocumentError
from mottle.storage.document import Fault as Fault
from mottle.storage.document import KeyPath as KeyPath
from mottle.storage.document import dotted as dotted
from mottle.storage.document import read_document as read_document

JobFileError = DocumentError
