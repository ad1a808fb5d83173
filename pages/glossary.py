"""Glossary: every term of the pages in plain words, to be searched, with what belongs to it and where it is met."""

from collections.abc import Collection

import streamlit as st

from ui import glossary, shell, terms, words

WHERE = {  # page of an entry -> its title in the navigation
    "start": "Start",
    "playground": "Playground",
    "probe": "Probe",
    "dose": "Dose response",
    "window": "Injection window",
    "controls": "Controls",
    "compare": "Compare",
    "runs": "Runs",
    "prompts": "Prompt sets",
}


def entry(term: str, found: Collection[str]) -> None:
    """One term: its definition, the terms beside it, and the page on which it is met."""
    told = glossary.ENTRIES[term]
    st.subheader(term, anchor=terms.slug(term))
    st.markdown(told.text)
    related = ", ".join(
        f"[{terms.escaped(other)}]({'' if other in found else terms.ADDRESS}#{terms.slug(other)})"
        for other in told.related
    )
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if related:
            st.caption(f"See also: {related}", width="content")
        st.page_link(f"../pages/{told.page}.py", label=f"Met on {WHERE[told.page]}", icon=":material/arrow_forward:")


st.title("Glossary", anchor=False)
st.markdown(
    "The words these pages use, and what they mean here. On every page a word with a dotted line under it shows its "
    "meaning when you point at it."
)
query = st.text_input(
    "Search", key="glossary_search", placeholder="flip rate, random, 95 % ...", help=words.HELP["glossary_search"],
    icon=":material/search:", width=420,
)  # fmt: skip
found = terms.search(query)
if not found:
    st.info(
        f"No term has to do with “{shell.escaped(query)}”. Try a shorter word, or clear the search to see all terms.",
        icon=":material/search_off:",
    )
for group, about in glossary.GROUPS.items():
    of_group = [term for term in found if glossary.ENTRIES[term].group == group]
    if of_group:
        st.header(group, anchor=terms.slug(group))
        st.caption(about)
        for term in of_group:
            entry(term, found)
